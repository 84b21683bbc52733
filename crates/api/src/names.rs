//! The grammars of names: DNS labels, label keys and values, port names, environment variables.
//!
//! Every `check_*` returns what is wrong, in upstream's words; nothing when all is well.

/// What is wrong with a text.
pub type Problems = Vec<String>;

const DNS_LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const DNS1035_LABEL: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_WORDS: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                               alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for \
                               validation is ";

fn too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn check(valid: bool, text: &str, max: usize, message: impl FnOnce() -> String) -> Problems {
    let length = (text.len() > max).then(|| too_long(max));
    length.into_iter().chain((!valid).then(message)).collect()
}

fn is_lower_alphanumeric(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

/// Whether `text` starts and ends with characters that `edge` allows, with only those or `inner` between.
fn framed(text: &str, edge: impl Fn(char) -> bool, inner: &str) -> bool {
    text.starts_with(&edge) && text.ends_with(&edge) && text.chars().all(|c| edge(c) || inner.contains(c))
}

/// A lowercase RFC 1123 label, such as a namespace's or container's name.
pub fn check_dns_label(text: &str) -> Problems {
    check(framed(text, is_lower_alphanumeric, "-"), text, 63, || {
        format!(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
             and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
             '{DNS_LABEL}')"
        )
    })
}

/// A lowercase RFC 1123 subdomain, such as most objects' names.
pub fn check_dns_subdomain(text: &str) -> Problems {
    let valid = text.split('.').all(|label| framed(label, is_lower_alphanumeric, "-"));
    check(valid, text, 253, || {
        format!(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '{DNS_LABEL}(\\.{DNS_LABEL})*')"
        )
    })
}

/// An RFC 1035 label, such as a Service's name: it starts with a letter.
pub fn check_dns1035_label(text: &str) -> Problems {
    let valid = framed(text, is_lower_alphanumeric, "-") && text.starts_with(|c: char| c.is_ascii_lowercase());
    check(valid, text, 63, || {
        format!(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
             validation is '{DNS1035_LABEL}')"
        )
    })
}

/// A wildcard subdomain, `*.example.com`, as an Ingress host may be.
pub fn check_wildcard_subdomain(text: &str) -> Problems {
    let valid = text.strip_prefix("*.").is_some_and(|rest| check_dns_subdomain(rest).is_empty());
    check(valid, text, 253, || {
        format!(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist \
             of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. \
             '*.example.com', regex used for validation is '\\*\\.{DNS_LABEL}(\\.{DNS_LABEL})*')"
        )
    })
}

/// A name that can be one segment of a path, such as a Role's.
pub fn check_path_segment(text: &str) -> Problems {
    if matches!(text, "." | "..") {
        return vec![format!("may not be '{text}'")];
    }
    ["/", "%"].iter().filter(|c| text.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// A label's or annotation's key, a taint's key, a finalizer: `[prefix/]name`.
pub fn check_qualified_name(text: &str) -> Problems {
    let (prefix, name) = match text.split('/').collect::<Vec<_>>()[..] {
        [name] => (None, name),
        [prefix, name] => (Some(prefix), name),
        _ => {
            return vec![format!(
                "a qualified name {QUALIFIED_WORDS}'{QUALIFIED}') with an optional DNS subdomain prefix and '/' (e.g. \
                 'example.com/MyName')"
            )];
        }
    };
    let mut problems = match prefix {
        Some("") => vec!["prefix part must be non-empty".to_owned()],
        Some(prefix) => check_dns_subdomain(prefix).iter().map(|problem| format!("prefix part {problem}")).collect(),
        None => Vec::new(),
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        problems.push(format!("name part {}", too_long(63)));
    }
    if !framed(name, |c| c.is_ascii_alphanumeric(), "-_.") {
        problems.push(format!("name part {QUALIFIED_WORDS}'{QUALIFIED}')"));
    }
    problems
}

/// A label's value.
pub fn check_label_value(text: &str) -> Problems {
    let valid = text.is_empty() || framed(text, |c| c.is_ascii_alphanumeric(), "-_.");
    check(valid, text, 63, || {
        format!(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used \
             for validation is '({QUALIFIED})?')"
        )
    })
}

/// A key of a ConfigMap or Secret.
pub fn check_config_key(text: &str) -> Problems {
    let valid = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    let mut problems = check(valid, text, 253, || {
        "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
         'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
            .to_owned()
    });
    match text {
        "." => problems.push("must not be '.'".to_owned()),
        ".." => problems.push("must not be '..'".to_owned()),
        _ if text.starts_with("..") => problems.push("must not start with '..'".to_owned()),
        _ => {}
    }
    problems
}

/// An environment variable's name.
pub fn check_env_name(text: &str) -> Problems {
    if text.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    let valid = text.chars().all(|c| (' '..='~').contains(&c) && c != '=');
    let message =
        "a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned();
    if valid { Vec::new() } else { vec![message] }
}

/// A named port: an IANA service name.
pub fn check_port_name(text: &str) -> Problems {
    let rules = [
        (text.len() > 15, "must be no more than 15 bytes"),
        (
            !text.chars().all(|c| is_lower_alphanumeric(c) || c == '-'),
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
        ),
        (!text.chars().any(|c| c.is_ascii_lowercase()), "must contain at least one letter (a-z)"),
        (text.contains("--"), "must not contain consecutive hyphens"),
        (text.starts_with('-') || text.ends_with('-'), "must not begin or end with a hyphen"),
    ];
    rules.iter().filter(|(broken, _)| *broken).map(|(_, message)| (*message).to_owned()).collect()
}

/// A port's number.
pub fn check_port_number(port: i64) -> Problems {
    if (1..=65_535).contains(&port) { Vec::new() } else { vec!["must be between 1 and 65535, inclusive".to_owned()] }
}

/// A driver's name: a subdomain, also in capitals, of a label's length.
pub fn check_driver(text: &str) -> Problems {
    let mut problems = check_dns_subdomain(&text.to_lowercase());
    if text.len() > 63 {
        problems.insert(0, too_long(63));
    }
    problems
}

/// A domain, a slash and a path, such as a controller's `example.com/controller`.
pub fn check_domain_path(text: &str) -> Problems {
    match text.split_once('/').filter(|(host, path)| !host.is_empty() && !path.is_empty()) {
        None => vec!["must be a domain-prefixed path (such as \"acme.io/foo\")".to_owned()],
        Some((host, path)) => {
            let plain = |c: char| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:".contains(c);
            let bad = (!path.chars().all(plain))
                .then(|| "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')".to_owned());
            check_dns_subdomain(host).into_iter().chain(bad).collect()
        }
    }
}

/// The name of what a device has: an identifier, perhaps with the domain of who says what it means.
pub fn check_device_name(text: &str) -> Problems {
    let id = |id: &str| {
        let long = (id.len() > 32).then(|| "must be no more than 32 characters".to_owned());
        long.into_iter().chain(check_c_identifier(id)).collect::<Problems>()
    };
    match text.split('/').collect::<Vec<_>>()[..] {
        [name] => id(name),
        ["", _] => vec!["the domain must not be empty".to_owned()],
        [_, ""] => vec!["the name must not be empty".to_owned()],
        [domain, name] => check_driver(domain).into_iter().chain(id(name)).collect(),
        _ => Vec::new(),
    }
}

/// The same with its domain: `example.com/model`.
pub fn check_fully_qualified(text: &str) -> Problems {
    let why = "a fully qualified name must be a domain and a name separated by a slash";
    let bare = (!text.contains('/')).then(|| why.to_owned());
    check_device_name(text).into_iter().chain(bare).collect()
}

/// A qualified name in which capitals are fine, as in a provisioner's.
pub fn check_lower_qualified(text: &str) -> Problems {
    check_qualified_name(&text.to_lowercase())
}

/// An identifier of the language C.
pub fn check_c_identifier(text: &str) -> Problems {
    let head = |c: char| c.is_ascii_alphabetic() || c == '_';
    let valid = text.starts_with(head) && text.chars().all(|c| head(c) || c.is_ascii_digit());
    let message = "a valid C identifier must start with alphabetic character or '_', followed by a string of \
                   alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for \
                   validation is '[A-Za-z_][A-Za-z0-9_]*')";
    if valid { Vec::new() } else { vec![message.to_owned()] }
}

/// A pool's name: subdomains with slashes between.
pub fn check_pool(text: &str) -> Problems {
    let long = (text.len() > 253).then(|| too_long(253));
    long.into_iter().chain(text.split('/').flat_map(check_dns_subdomain)).collect()
}

/// A path that does not climb.
pub fn check_no_backsteps(text: &str) -> Problems {
    if text.split('/').any(|part| part == "..") { vec!["must not contain '..'".to_owned()] } else { Vec::new() }
}

/// A relative path that does not climb.
pub fn check_descending_path(text: &str) -> Problems {
    let absolute = text.starts_with('/').then(|| "must be a relative path".to_owned());
    absolute.into_iter().chain(check_no_backsteps(text)).collect()
}

/// A relative path below a volume; names that begin with two dots are the kubelet's.
pub fn check_volume_path(text: &str) -> Problems {
    let mut problems = check_descending_path(text);
    if text.starts_with("..") && !text.starts_with("../") {
        problems.push("must not start with '..'".to_owned());
    }
    problems
}

/// An absolute path.
pub fn check_absolute_path(text: &str) -> Problems {
    if text.starts_with('/') { Vec::new() } else { vec!["must be an absolute path".to_owned()] }
}

/// A host, which may be a wildcard.
pub fn check_host(text: &str) -> Problems {
    if text.contains('*') { check_wildcard_subdomain(text) } else { check_dns_subdomain(text) }
}

/// What is no address.
pub fn check_not_ip(text: &str) -> Problems {
    let why = "must be a DNS name, not an IP address".to_owned();
    if text.parse::<std::net::IpAddr>().is_ok() { vec![why] } else { Vec::new() }
}

/// A domain of at least so many segments.
pub fn check_domain(text: &str, least: usize) -> Problems {
    match check_dns_subdomain(text) {
        problems if !problems.is_empty() => vec![problems.join(",")],
        _ if text.split('.').count() < least => {
            let least = if least == 2 { "two" } else { "three" };
            vec![format!("should be a domain with at least {least} segments separated by dots")]
        }
        _ => Vec::new(),
    }
}

fn check_domain3(text: &str) -> Problems {
    check_domain(text, 3)
}

/// A header of HTTP.
pub fn check_header(text: &str) -> Problems {
    let valid = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let message = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex \
                   used for validation is '[-A-Za-z0-9]+')";
    if valid { Vec::new() } else { vec![message.to_owned()] }
}

/// A search domain of a resolver: it may have underscores and a dot at its end.
pub fn check_search_domain(text: &str) -> Problems {
    if text == "." {
        return Vec::new();
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let framed = |part: &str| framed(part, is_lower_alphanumeric, "-_");
    check(name.split('.').all(framed), name, 253, || {
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-', '_' or '.', and must \
         start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
         '[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')"
            .to_owned()
    })
}

/// A version as semver.org has it.
pub fn check_semver(text: &str) -> Problems {
    let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
    let number = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) && (part == "0" || !part.starts_with('0'))
    };
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let pre_word = |part: &str| word(part) && (!part.bytes().all(|b| b.is_ascii_digit()) || number(part));
    let valid = core.split('.').count() == 3
        && core.split('.').all(number)
        && pre.is_none_or(|pre| pre.split('.').all(pre_word))
        && build.is_none_or(|build| build.split('.').all(word));
    if valid { Vec::new() } else { vec!["must be a string compatible with semver.org spec 2.0.0".to_owned()] }
}

/// A UUID in its usual form.
pub fn check_uuid(text: &str) -> Problems {
    let dashes = [8, 13, 18, 23];
    let valid = text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match dashes.contains(&i) {
            true => b == b'-',
            false => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
        });
    let message = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase \
                   hexadecimal characters";
    if valid { Vec::new() } else { vec![message.to_owned()] }
}

/// The grammar of that name in the table of rules.
pub fn format(name: &str) -> Option<fn(&str) -> Problems> {
    Some(match name {
        "label" => check_dns_label,
        "label1035" => check_dns1035_label,
        "subdomain" => check_dns_subdomain,
        "host" => check_host,
        "notip" => check_not_ip,
        "domain3" => check_domain3,
        "segment" => check_path_segment,
        "qualified" => check_qualified_name,
        "lowerqualified" => check_lower_qualified,
        "fullyqualified" => check_fully_qualified,
        "labelvalue" => check_label_value,
        "key" => check_config_key,
        "env" => check_env_name,
        "portname" => check_port_name,
        "ip" => check_ip,
        "cidr" => check_cidr,
        "interface" => check_interface,
        "driver" => check_driver,
        "domainpath" => check_domain_path,
        "pool" => check_pool,
        "climbless" => check_no_backsteps,
        "descending" => check_descending_path,
        "volumepath" => check_volume_path,
        "absolute" => check_absolute_path,
        "header" => check_header,
        "search" => check_search_domain,
        "semver" => check_semver,
        "uuid" => check_uuid,
        _ => return None,
    })
}

/// An IP address.
pub fn check_ip(text: &str) -> Problems {
    let message = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned();
    if text.parse::<std::net::IpAddr>().is_ok() { Vec::new() } else { vec![message] }
}

/// An IP address that other machines can be reached at.
pub fn check_special_ip(text: &str) -> Problems {
    use std::net::IpAddr;
    let Ok(ip) = text.parse::<IpAddr>() else { return Vec::new() };
    let (local, multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (ip.segments()[0] & 0xffc0 == 0xfe80, ip.segments()[0] & 0xff0f == 0xff02),
    };
    [
        (ip.is_unspecified(), "may not be unspecified (0.0.0.0 or ::)"),
        (ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        (multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    ]
    .into_iter()
    .filter(|(wrong, _)| *wrong)
    .map(|(_, why)| why.to_owned())
    .collect()
}

/// An IP address written the one way that it is written.
pub fn check_canonical_ip(text: &str) -> Problems {
    match text.parse::<std::net::IpAddr>() {
        Err(_) => vec![format!("ParseAddr({text:?}): unable to parse IP")],
        Ok(ip) if ip.to_string() != text => vec!["must be a canonical format IP address".to_owned()],
        Ok(_) => Vec::new(),
    }
}

fn parse_cidr(text: &str) -> Option<(std::net::IpAddr, u32)> {
    let (ip, bits) = text.split_once('/')?;
    let ip: std::net::IpAddr = ip.parse().ok()?;
    let bits = bits.parse().ok().filter(|bits| *bits <= if ip.is_ipv4() { 32 } else { 128 })?;
    Some((ip, bits))
}

/// The address, the prefix' length and the address' length of a network.
pub(crate) fn network(cidr: &str) -> Option<(u128, u32, u32)> {
    parse_cidr(cidr).map(|(ip, prefix)| match ip {
        std::net::IpAddr::V4(ip) => (u128::from(ip.to_bits()), prefix, 32),
        std::net::IpAddr::V6(ip) => (ip.to_bits(), prefix, 128),
    })
}

/// A CIDR, such as `10.9.8.0/24`.
pub fn check_cidr(text: &str) -> Problems {
    let message = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned();
    if parse_cidr(text).is_some() { Vec::new() } else { vec![message] }
}

/// A network written the one way that it is written, with nothing after its prefix.
pub fn check_network(text: &str) -> Problems {
    match network(text) {
        Some((bits, prefix, width)) if prefix < width && bits << (128 - width + prefix) != 0 => {
            vec!["must not have bits set beyond the prefix length".to_owned()]
        }
        _ => parse_cidr(text).map_or_else(|| check_cidr(text), |parsed| check_canonical(text, parsed)),
    }
}

/// An address of an interface, with the length of its network's prefix.
pub fn check_interface(text: &str) -> Problems {
    let message = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)".to_owned();
    parse_cidr(text).map_or_else(|| vec![message], |parsed| check_canonical(text, parsed))
}

fn check_canonical(text: &str, (ip, bits): (std::net::IpAddr, u32)) -> Problems {
    let canonical = format!("{ip}/{bits}");
    if text == canonical { Vec::new() } else { vec![format!("must be in canonical form ({canonical:?})")] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged_as_upstream() {
        type Check = fn(&str) -> Problems;
        let long = "a".repeat(64);
        for (check, good, bad) in [
            (check_dns_label as Check, "a-1", "A"),
            (check_dns_label, "1", "-a"),
            (check_dns_label, "a", ""),
            (check_dns_label, "a", long.as_str()),
            (check_dns_subdomain, "a.b-c.1", "a..b"),
            (check_dns_subdomain, "a", "a_b"),
            (check_dns1035_label, "a1", "1a"),
            (check_qualified_name, "example.com/My.Name_1", "a/b/c"),
            (check_qualified_name, "a", "/a"),
            (check_label_value, "", "a "),
            (check_config_key, "my.key_1-X", "a/b"),
            (check_config_key, "...a".trim_start_matches('.'), ".."),
            (check_env_name, "A.b-c 1", "A=B"),
            (check_port_name, "http-1", "123"),
            (check_path_segment, "system:node", "a/b"),
            (check_cidr, "10.0.0.0/8", "10.0.0.0"),
            (check_ip, "::1", "1.2.3"),
        ] {
            assert_eq!(check(good), Problems::new(), "{good}");
            assert!(!check(bad).is_empty(), "{bad}");
        }
    }

    #[test]
    fn the_words_are_upstreams() {
        assert_eq!(
            check_dns_subdomain("Bad_Name"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
              start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
    }
}
