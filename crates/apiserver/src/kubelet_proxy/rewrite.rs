//! What a proxied server says about places: its absolute paths are below the proxy's path for the client.
//!
//! `Location` headers and the links of HTML pages that begin with `/` get the proxy's path in front; what is
//! relative, or on another host, stays.

use http::Uri;

/// Attributes of HTML elements that hold a URL.
const LINKS: [&str; 15] = [
    "action",
    "background",
    "cite",
    "classid",
    "codebase",
    "data",
    "formaction",
    "href",
    "icon",
    "longdesc",
    "manifest",
    "poster",
    "profile",
    "src",
    "usemap",
];

/// A URL that a server behind `prefix` wrote, for who sees it through the proxy. `host` is the server's
/// own authority.
pub(super) fn url(text: &str, prefix: &str, host: &str) -> String {
    let Ok(uri) = text.parse::<Uri>() else { return text.to_owned() };
    let elsewhere = uri.authority().is_some_and(|authority| authority.as_str() != host);
    if elsewhere || !uri.path().starts_with('/') || (uri.authority().is_none() && !text.starts_with('/')) {
        return text.to_owned();
    }
    // `//host/path` is another host's; the parser takes it for a path.
    if uri.path().starts_with(&format!("{prefix}/")) || text.starts_with("//") {
        return text.to_owned();
    }
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let fragment = text.split_once('#').map(|(_, fragment)| format!("#{fragment}")).unwrap_or_default();
    format!("{prefix}{}{query}{fragment}", uri.path())
}

/// The same for all links of an HTML page. Only text inside tags is looked at.
pub(super) fn html(page: &str, prefix: &str, host: &str) -> String {
    let mut out = String::with_capacity(page.len() + page.len() / 8);
    let mut rest = page;
    while let Some(start) = rest.find('<') {
        let end = rest[start..].find('>').map_or(rest.len(), |end| start + end + 1);
        out.push_str(&rest[..start]);
        tag(&rest[start..end], prefix, host, &mut out);
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

fn tag(mut rest: &str, prefix: &str, host: &str, out: &mut String) {
    while let Some(at) = rest.find(['"', '\'']) {
        let quote = &rest[at..=at];
        let Some(length) = rest[at + 1..].find(quote) else { break };
        let (before, value) = (&rest[..at], &rest[at + 1..at + 1 + length]);
        let name = before.trim_end().trim_end_matches('=').trim_end();
        let name = name.rsplit(|c: char| c.is_whitespace() || c == '/').next().unwrap_or_default();
        out.push_str(before);
        out.push_str(quote);
        let link = LINKS.iter().any(|link| link.eq_ignore_ascii_case(name));
        if link {
            out.push_str(&url(value, prefix, host))
        } else {
            out.push_str(value)
        }
        out.push_str(quote);
        rest = &rest[at + length + 2..];
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "/api/v1/namespaces/n/services/s/proxy";

    #[test]
    fn absolute_paths_are_below_the_proxys() {
        let table = [
            ("/a?b=c#d", "/api/v1/namespaces/n/services/s/proxy/a?b=c#d"),
            ("http://10.0.0.1:80/a", "/api/v1/namespaces/n/services/s/proxy/a"),
            ("http://elsewhere/a", "http://elsewhere/a"),
            ("//elsewhere/a", "//elsewhere/a"),
            ("a/b", "a/b"),
            ("", ""),
            ("/api/v1/namespaces/n/services/s/proxy/a", "/api/v1/namespaces/n/services/s/proxy/a"),
        ];
        for (text, expected) in table {
            assert_eq!(url(text, PREFIX, "10.0.0.1:80"), expected, "{text}");
        }
    }

    #[test]
    fn links_of_a_page_are_rewritten_and_its_text_is_not() {
        let page = r#"<p class="/x">"/a" <A HREF='/a'>a</A><img alt="" src = "/i.png"/><a href="b">"#;
        let expected = r#"<p class="/x">"/a" <A HREF='/p/a'>a</A><img alt="" src = "/p/i.png"/><a href="b">"#;
        assert_eq!(html(page, "/p", "h"), expected);
        for broken in ["<", "<a href=\"", "<a href='/x", "a > b", "<a href=\"/é", "é<é'é'>"] {
            assert_eq!(html(broken, "/p", "h"), broken);
        }
    }
}
