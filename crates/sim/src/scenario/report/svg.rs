//! Plots: areas on each other, lines, bars. Colours are classes (`s1` to `s7`), so that the page says what they are.

use std::fmt::Write;
use std::time::Duration;

use coracle_kubelet::runtime::simulated::Span;

/// The plot's size, and what is left around it for words.
const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 200.0;
const LEFT: f64 = 44.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 24.0;
/// So many places in a plot tell their values to whoever points at them.
const TIPS: usize = 100;

/// A named row of values.
pub(super) struct Series {
    pub(super) name: String,
    pub(super) values: Vec<f64>,
}

impl Series {
    pub(super) fn new(name: impl Into<String>, values: impl IntoIterator<Item = f64>) -> Series {
        Series { name: name.into(), values: values.into_iter().collect() }
    }
}

/// How a plot is drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Areas on each other.
    Stacked,
    /// Lines.
    Lines,
}

/// A moment to be marked.
pub(super) struct Mark {
    pub(super) at: Duration,
    pub(super) text: String,
}

/// Text in a page.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A number as short as it is clear.
pub(super) fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{:.1}M", value / 1e6),
        value if value >= 1e4 => format!("{:.0}k", value / 1e3),
        value if value.fract() == 0.0 => format!("{value:.0}"),
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 1.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// A round number, and the steps to it: 1, 2 or 5 times a power of ten.
fn scale(highest: f64) -> (f64, f64) {
    let rough = (highest / 4.0).max(1e-3);
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= rough);
    let step = step.unwrap_or(rough);
    ((highest / step).ceil().max(1.0) * step, step)
}

/// Round moments of a time span.
fn moments(end: Duration) -> Vec<Duration> {
    const STEPS: [u64; 14] = [10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400];
    let step = STEPS.into_iter().find(|step| end.as_secs() / step <= 8).unwrap_or(86_400 * 7);
    (0..=end.as_secs() / step).map(|count| Duration::from_secs(count * step)).collect()
}

/// A plot over time, with a legend.
pub(super) fn plot(style: Style, at: &[Duration], series: &[Series], marks: &[Mark]) -> String {
    let end = at.last().copied().unwrap_or_default().max(Duration::from_secs(1));
    let sum = |index: usize| series.iter().map(|s| s.values[index]).sum::<f64>();
    let highest = match style {
        Style::Stacked => (0..at.len()).map(sum).fold(0.0, f64::max),
        Style::Lines => series.iter().flat_map(|s| s.values.iter().copied()).fold(0.0, f64::max),
    };
    let (top, step) = scale(highest);
    let x = |time: Duration| LEFT + (WIDTH - LEFT - RIGHT) * time.as_secs_f64() / end.as_secs_f64();
    let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top;
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
    let mut level = 0.0;
    while level <= top + step / 2.0 {
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{2:.1}\" y2=\"{2:.1}\"/><text class=\"y\" x=\"{}\" y=\"{3:.1}\">{4}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y(level),
            y(level) + 4.0,
            short(level)
        );
        level += step;
    }
    for moment in moments(end) {
        let _ = write!(svg, "<text class=\"x\" x=\"{:.1}\" y=\"{}\">{}</text>", x(moment), HEIGHT - 6.0, Span(moment));
    }
    // What never was takes no place in the legend; the others have their colours all the same.
    let numbered = series.iter().enumerate().map(|(number, series)| (number % 7 + 1, series));
    let shown: Vec<_> = numbered.filter(|(_, series)| series.values.iter().any(|value| *value != 0.0)).collect();
    let mut below = vec![0.0; at.len()];
    for (class, series) in &shown {
        let points = |values: &[f64]| -> Vec<String> {
            at.iter().zip(values).map(|(time, value)| format!("{:.1},{:.1}", x(*time), y(*value))).collect()
        };
        match style {
            Style::Lines => {
                let _ = write!(svg, "<polyline class=\"s{class}\" points=\"{}\"/>", points(&series.values).join(" "));
            }
            Style::Stacked => {
                let above: Vec<f64> = below.iter().zip(&series.values).map(|(below, value)| below + value).collect();
                let back = points(&below).into_iter().rev();
                let outline: Vec<String> = points(&above).into_iter().chain(back).collect();
                let _ = write!(svg, "<polygon class=\"s{class}\" points=\"{}\"/>", outline.join(" "));
                below = above;
            }
        }
    }
    for mark in marks.iter().filter(|mark| mark.at <= end) {
        let _ = write!(
            svg,
            "<g class=\"mark\"><line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{TOP}\" y2=\"{1}\"/><circle cx=\"{0:.1}\" cy=\"{TOP}\" r=\"4\"/><title>{2}: {3}</title></g>",
            x(mark.at),
            HEIGHT - BOTTOM,
            Span(mark.at),
            escape(&mark.text)
        );
    }
    let every = at.len().div_ceil(TIPS).max(1);
    let width = (WIDTH - LEFT - RIGHT) / (at.len() as f64 / every as f64).max(1.0);
    for index in (0..at.len()).step_by(every) {
        let values = series.iter().filter(|s| s.values[index] != 0.0);
        let values: Vec<String> = values.map(|s| format!("{}: {}", escape(&s.name), short(s.values[index]))).collect();
        let _ = write!(
            svg,
            "<rect class=\"tip\" x=\"{:.1}\" y=\"{}\" width=\"{width:.1}\" height=\"{}\"><title>{}\n{}</title></rect>",
            x(at[index]) - width / 2.0,
            TOP + 5.0,
            HEIGHT - TOP - BOTTOM - 5.0,
            Span(at[index]),
            values.join("\n")
        );
    }
    svg += "</svg><p class=\"legend\">";
    for (class, series) in shown {
        let _ = write!(svg, "<span><i class=\"s{class}\"></i>{}</span>", escape(&series.name));
    }
    svg + "</p>"
}

/// Bars with their names below and their values above.
pub(super) fn bars(bars: &[(String, f64)]) -> String {
    let highest = bars.iter().map(|(_, value)| *value).fold(1.0, f64::max);
    let each = (WIDTH - LEFT - RIGHT) / bars.len().max(1) as f64;
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
    for (number, (name, value)) in bars.iter().enumerate() {
        let height = (HEIGHT - TOP - BOTTOM - 16.0) * value / highest;
        let (x, y) = (LEFT + number as f64 * each, HEIGHT - BOTTOM - height);
        let middle = x + each / 2.0;
        let _ = write!(
            svg,
            "<rect class=\"s1\" x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\" rx=\"2\"/><text class=\"x\" x=\"{middle:.1}\" y=\"{}\">{}</text>",
            x + each * 0.1,
            each * 0.8,
            HEIGHT - 6.0,
            escape(name)
        );
        if *value > 0.0 {
            let _ = write!(svg, "<text class=\"x\" x=\"{middle:.1}\" y=\"{:.1}\">{}</text>", y - 4.0, short(*value));
        }
    }
    svg + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_at_round_numbers() {
        for (highest, expected) in [
            (0.0, (0.001, 0.001)),
            (3.0, (3.0, 1.0)),
            (7.0, (8.0, 2.0)),
            (97.0, (100.0, 50.0)),
            (1234.0, (1500.0, 500.0)),
        ] {
            let (top, step) = scale(highest);
            assert!((top - expected.0).abs() < 1e-9 && (step - expected.1).abs() < 1e-9, "{highest}: {top} by {step}");
        }
    }

    #[test]
    fn a_plot_has_all_that_it_is_given_and_no_markup_of_others() {
        let at: Vec<Duration> = (0..10).map(|second| Duration::from_secs(second * 60)).collect();
        let named = |name: &str, value| Series::new(name, vec![value; 10]);
        let series = [named("a<b", 1.0), named("never", 0.0), named("c", 2.0)];
        let marks = [Mark { at: Duration::from_secs(60), text: "\"zone\" & power".into() }];
        let svg = plot(Style::Stacked, &at, &series, &marks);
        assert_eq!((svg.matches("<polygon").count(), svg.matches("class=\"tip\"").count()), (2, 10));
        assert!(svg.contains("<i class=\"s3\"></i>c") && !svg.contains("never"), "{svg}");
        assert!(svg.contains("a&lt;b") && svg.contains("&quot;zone&quot; &amp; power"), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
