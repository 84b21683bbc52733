//! What `kubectl get` prints: the cells of the server-side Table.

use jiff::Timestamp;
use serde_json::Value;

/// `metadata.name`.
pub fn name(object: &Value) -> Value {
    object["metadata"]["name"].clone()
}

/// The object's age, such as `3m12s`; `<unknown>` without a creation time.
pub fn age(object: &Value) -> Value {
    since(&object["metadata"]["creationTimestamp"]).into()
}

/// How long ago a `metav1.Time` was, as `kubectl` prints it; `<unknown>` when it is not one.
pub fn since(time: &Value) -> String {
    let Some(time) = time.as_str().and_then(|text| text.parse::<Timestamp>().ok()) else {
        return "<unknown>".into();
    };
    human_duration(coracle_clock::now().as_second() - time.as_second())
}

/// A duration in seconds with the precision people want: two units at most, the finer one dropped as it
/// grows (`119s`, `3m12s`, `45m`, `3h5m`, `12h`, `2d3h`, `9d`, `2y40d`, `9y`).
pub fn human_duration(seconds: i64) -> String {
    let (s, m, h, d) = (seconds, seconds / 60, seconds / 3600, seconds / 86_400);
    // A clock that is a little behind the server's must not print a negative age.
    let two = |major: i64, unit: char, minor: i64, sub: char| match minor {
        0 => format!("{major}{unit}"),
        _ => format!("{major}{unit}{minor}{sub}"),
    };
    match () {
        () if s < -1 => "<invalid>".into(),
        () if s < 0 => "0s".into(),
        () if s < 120 => format!("{s}s"),
        () if m < 10 => two(m, 'm', s % 60, 's'),
        () if m < 180 => format!("{m}m"),
        () if h < 8 => two(h, 'h', m % 60, 'm'),
        () if h < 48 => format!("{h}h"),
        () if h < 192 => two(d, 'd', h % 24, 'h'),
        () if d < 730 => format!("{d}d"),
        () if d < 2920 => two(d / 365, 'y', d % 365, 'd'),
        () => format!("{}y", d / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_kubectl_prints_them() {
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (192, "3m12s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_100, "3h5m"),
            (28_800, "8h"),
            (172_800, "2d"),
            (183_600, "2d3h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (66_528_000, "2y40d"),
            (252_288_000, "8y"),
            (-1, "0s"),
            (-5, "<invalid>"),
        ] {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
    }
}
