//! A pod's cost over the number of nodes, beside what it would be if it grew as they do.

use std::fmt::Write;

/// The plot's size, and what is left around it for words.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const MARGIN: f64 = 64.0;

/// Draws microseconds over nodes. The dashed line goes through the first of them, in proportion to the nodes.
pub(super) fn svg(costs: &[(f64, f64)]) -> String {
    let most = |of: fn(&(f64, f64)) -> f64| costs.iter().map(of).fold(1.0, f64::max);
    let (nodes, highest) = (most(|(nodes, _)| *nodes), most(|(_, cost)| *cost) * 1.1);
    let x = |value: f64| MARGIN + (WIDTH - 2.0 * MARGIN) * value / nodes;
    let y = |value: f64| HEIGHT - MARGIN - (HEIGHT - 2.0 * MARGIN) * value / highest;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\"><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/><text x=\"{MARGIN}\" y=\"32\">Scheduling \
         cost per pod (µs) over nodes; dashed: in proportion to the nodes</text><path fill=\"none\" stroke=\"#888\" \
         d=\"M{MARGIN} {MARGIN}V{1}H{0}\"/>",
        WIDTH - MARGIN,
        HEIGHT - MARGIN
    );
    if let Some((first, cost)) = costs.first() {
        // Up to where it leaves the plot.
        let end = nodes.min(highest * first / cost);
        let (from, to) = ((x(*first), y(*cost)), (x(end), y(end * cost / first)));
        let _ = write!(
            svg,
            "<path stroke=\"#888\" stroke-dasharray=\"6 4\" d=\"M{:.1} {:.1}L{:.1} {:.1}\"/>",
            from.0, from.1, to.0, to.1
        );
    }
    let points: Vec<_> = costs.iter().map(|(nodes, cost)| format!("{:.1},{:.1}", x(*nodes), y(*cost))).collect();
    let _ =
        write!(svg, "<polyline fill=\"none\" stroke=\"#326ce5\" stroke-width=\"2\" points=\"{}\"/>", points.join(" "));
    for (nodes, cost) in costs {
        let _ = write!(
            svg,
            "<circle cx=\"{0:.1}\" cy=\"{1:.1}\" r=\"4\" fill=\"#326ce5\"/><text x=\"{0:.1}\" y=\"{2:.1}\" \
             text-anchor=\"middle\">{cost:.0}</text><text x=\"{0:.1}\" y=\"{3}\" text-anchor=\"end\" \
             transform=\"rotate(-45 {0:.1} {3})\">{nodes}</text>",
            x(*nodes),
            y(*cost),
            y(*cost) - 10.0,
            HEIGHT - MARGIN + 16.0
        );
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_is_in_the_plot_where_it_belongs() {
        let svg = svg(&[(500.0, 200.0), (1000.0, 210.0), (15_000.0, 400.0)]);
        assert_eq!(svg.matches("<circle").count(), 3);
        // The most nodes are at the right; what costs half of another stands half as high.
        let points = svg.split_once("points=\"").unwrap().1.split_once('"').unwrap().0;
        let points = points.split(' ').map(|point| point.split_once(',').unwrap());
        let points: Vec<(f64, f64)> = points.map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap())).collect();
        assert_eq!(points[2].0, WIDTH - MARGIN);
        let height = |at: usize| HEIGHT - MARGIN - points[at].1;
        assert!((height(2) - 2.0 * height(0)).abs() < 0.3, "{points:?}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
