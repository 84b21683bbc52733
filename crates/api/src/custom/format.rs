//! The string formats that schemas may ask for; formats that nobody knows are ignored.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use regex::Regex;

use crate::names::{check_dns_label, check_dns_subdomain};

/// Formats that a regular expression decides, as `kube-openapi`'s `strfmt` has them.
static PATTERNS: LazyLock<Vec<(&str, Regex)>> = LazyLock::new(|| {
    let rows = [
        ("bsonobjectid", r"^[0-9a-fA-F]{24}$"),
        ("email", r"^[^@\s]+@[^@\s]+$"),
        (
            "hostname",
            r"^([a-zA-Z0-9_]([a-zA-Z0-9-]{0,62}[a-zA-Z0-9])?\.)*[a-zA-Z0-9_]([a-zA-Z0-9-]{0,62}[a-zA-Z0-9])?\.?$",
        ),
        ("uri", r"^[a-zA-Z][a-zA-Z0-9+.-]*:\S*$|^/\S*$"),
        (
            "mac",
            r"^([0-9A-Fa-f]{2}([:-]))([0-9A-Fa-f]{2}[:-]){4,18}[0-9A-Fa-f]{2}$|^([0-9A-Fa-f]{4}\.){2,9}[0-9A-Fa-f]{4}$",
        ),
        ("uuid", r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$"),
        ("uuid3", r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?3[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}$"),
        ("uuid4", r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"),
        ("uuid5", r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?5[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"),
        ("isbn10", r"^([0-9]{9}[0-9X]|([0-9]+[ -]){3}[0-9X])$"),
        ("isbn13", r"^([0-9]{13}|([0-9]+[ -]){4}[0-9])$"),
        ("creditcard", r"^[0-9 -]{13,23}$"),
        ("ssn", r"^\d{3}[- ]?\d{2}[- ]?\d{4}$"),
        ("hexcolor", r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$"),
        ("rgbcolor", r"^rgb\(\s*\d{1,3}\s*,\s*\d{1,3}\s*,\s*\d{1,3}\s*\)$"),
        ("datetime", r"^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:?\d{2})?$"),
        ("duration", r"^-?(\d+(\.\d+)?\s*[a-zA-Zµμ]+\s*)+$|^0$"),
    ];
    rows.into_iter().filter_map(|(name, pattern)| Some((name, Regex::new(pattern).ok()?))).collect()
});

/// Whether a text is of a format.
pub fn fits(format: &str, text: &str) -> bool {
    // `date-time` and `datetime` are one.
    let name = format.replace('-', "");
    match name.as_str() {
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => text.split_once('/').is_some_and(|(address, bits)| {
            let widest = address.parse::<IpAddr>().map(|address| if address.is_ipv4() { 32 } else { 128 });
            bits.parse::<u8>().is_ok_and(|bits| widest.is_ok_and(|widest| bits <= widest))
        }),
        "byte" => STANDARD.decode(text).is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok() && text.len() == 10,
        "isbn" => fits("isbn10", text) || fits("isbn13", text),
        "k8sshortname" => check_dns_label(text).is_empty(),
        "k8slongname" => check_dns_subdomain(text).is_empty(),
        name => PATTERNS.iter().find(|(known, _)| *known == name).is_none_or(|(_, regex)| regex.is_match(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_knows_its_own() {
        for (format, good, bad) in [
            ("date-time", "2026-01-01T00:00:00Z", "2026-01-01"),
            ("date", "2026-01-31", "2026-02-31"),
            ("ipv4", "10.0.0.1", "10.0.0.256"),
            ("ipv6", "fe80::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("uuid", "7a1d3d1e-3c8e-4b8e-9b0c-1f2e3d4c5b6a", "7a1d"),
            ("email", "a@b.c", "a"),
            ("uri", "https://example.com/x", "not a uri"),
            ("byte", "aGk=", "???"),
            ("duration", "1h30m", "soon"),
            ("mac", "00:11:22:33:44:55", "00:11"),
            ("hostname", "a.example.com", "-a-.b"),
            ("k8s-short-name", "a-b", "A"),
            ("unheard-of", "x", "\u{0}"),
        ] {
            assert!(fits(format, good), "{format} {good}");
            assert!(format == "unheard-of" || !fits(format, bad), "{format} {bad}");
        }
        assert_eq!(PATTERNS.len(), 17);
    }
}
