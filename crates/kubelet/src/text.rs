//! Small texts that clients match on: durations, pod names in messages, ids and hashes.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};

/// A duration as Go prints it: `10s`, `1m20s`, `5m0s`, `1.5s`, `250ms`, `0s`.
pub fn go_duration(duration: Duration) -> String {
    if duration.is_zero() {
        return "0s".into();
    }
    let seconds = duration.as_secs();
    let nanos = duration.subsec_nanos();
    if seconds == 0 {
        return match nanos {
            0..1_000 => format!("{nanos}ns"),
            1_000..1_000_000 => format!("{}µs", decimal(u64::from(nanos), 1_000)),
            _ => format!("{}ms", decimal(u64::from(nanos), 1_000_000)),
        };
    }
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let rest = decimal((seconds % 60) * 1_000_000_000 + u64::from(nanos), 1_000_000_000);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, m) => format!("{m}m{rest}s"),
        (h, m) => format!("{h}h{m}m{rest}s"),
    }
}

/// `value / unit` with as many decimals as it needs.
fn decimal(value: u64, unit: u64) -> String {
    let (whole, mut fraction) = (value / unit, value % unit);
    if fraction == 0 {
        return whole.to_string();
    }
    let mut digits = String::new();
    let mut scale = unit;
    while fraction != 0 {
        scale /= 10;
        digits.push(char::from(b'0' + u8::try_from(fraction / scale).unwrap_or(0)));
        fraction %= scale;
    }
    format!("{whole}.{digits}")
}

/// A pod as messages name it: `name_namespace(uid)`.
pub fn pod_in_messages(pod: &Pod) -> String {
    let meta = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    format!("{}_{}({})", text(&meta.name), text(&meta.namespace), text(&meta.uid))
}

/// The hash by which a container's running instance is told from a changed definition. As upstream, only what may
/// be changed in place and needs a restart goes in: name and image.
pub fn container_hash(container: &Container) -> String {
    let image = container.image.as_deref().unwrap_or_default();
    format!("{:x}", fnv1a([container.name.as_bytes(), &[0], image.as_bytes()].concat().as_slice()))
}

/// The 32-bit FNV-1a hash, small and the same on every machine.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_in_go() {
        for (millis, text) in [
            (0, "0s"),
            (250, "250ms"),
            (1_500, "1.5s"),
            (10_000, "10s"),
            (80_000, "1m20s"),
            (160_000, "2m40s"),
            (300_000, "5m0s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
        assert_eq!(go_duration(Duration::from_micros(1_234)), "1.234ms");
    }

    #[test]
    fn only_name_and_image_make_a_container_another_one() {
        let of = |name: &str, image: &str, args: &[&str]| {
            container_hash(&Container {
                name: name.into(),
                image: Some(image.into()),
                args: Some(args.iter().map(|a| (*a).to_owned()).collect()),
                ..Container::default()
            })
        };
        assert_eq!(of("a", "i", &[]), of("a", "i", &["x"]));
        assert_ne!(of("a", "i", &[]), of("a", "j", &[]));
        assert_ne!(of("a", "i", &[]), of("b", "i", &[]));
    }
}
