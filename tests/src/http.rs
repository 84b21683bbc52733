//! A small web client: what a browser does with WordPress' forms.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The headers as `name: value`, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Response {
    /// Reads an answer whose body ends where the connection does.
    pub(crate) fn parse(answer: &[u8]) -> std::io::Result<Response> {
        let answer = String::from_utf8_lossy(answer);
        let read = || {
            let (head, body) = answer.split_once("\r\n\r\n")?;
            let (line, headers) = head_of(head);
            Some(Response { status: line.split(' ').nth(1)?.parse().ok()?, headers, body: body.to_owned() })
        };
        read().ok_or_else(|| std::io::Error::other(format!("no answer: {answer:?}")))
    }

    /// The first header with this (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// The value of the form field with this name.
    #[track_caller]
    pub fn field(&self, name: &str) -> String {
        let find = || {
            let start = self.body.find(&format!("name=\"{name}\"")).or(self.body.find(&format!("name='{name}'")))?;
            let open = self.body[..start].rfind('<')?;
            let tag = &self.body[open..open + self.body[open..].find('>')?];
            let value = tag.find("value=")? + "value=".len();
            let quote = tag[value..].chars().next()?;
            tag[value + 1..].split(quote).next()
        };
        find().unwrap_or_else(|| panic!("no field {name} in {}", self.body)).to_owned()
    }
}

/// A browser without a window: it keeps cookies and follows redirects.
#[derive(Debug)]
pub struct Session {
    address: SocketAddr,
    host: String,
    cookies: BTreeMap<String, String>,
}

impl Session {
    /// A session with `host[:port]`.
    ///
    /// # Panics
    /// If that is no address.
    pub fn new(host: &str) -> Session {
        let full = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
        let address = full.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
        let address = address.unwrap_or_else(|| panic!("{host} is no address"));
        Session { address, host: host.to_owned(), cookies: BTreeMap::new() }
    }

    /// Gets a page, over as many redirects as needed.
    ///
    /// # Errors
    /// If the server is not reached or breaks off.
    pub fn get(&mut self, path: &str) -> std::io::Result<Response> {
        let response = self.request("GET", path, "")?;
        self.follow(response)
    }

    /// Sends a form, and gets the page that it leads to.
    ///
    /// # Errors
    /// If the server is not reached or breaks off.
    pub fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> std::io::Result<Response> {
        let pairs: Vec<String> =
            fields.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
        let response = self.request("POST", path, &pairs.join("&"))?;
        self.follow(response)
    }

    fn follow(&mut self, mut response: Response) -> std::io::Result<Response> {
        for _ in 0..10 {
            let Some(location) = response.header("location").filter(|_| (300..400).contains(&response.status)) else {
                break;
            };
            let base = format!("http://{}", self.host);
            let path = location.strip_prefix(&base).unwrap_or(location).to_owned();
            response = self.request("GET", &path, "")?;
        }
        Ok(response)
    }

    /// One request and its answer, no redirects. HTTP/1.0: the connection's end is the body's end.
    ///
    /// # Errors
    /// If the server is not reached, breaks off, or answers with something else.
    pub fn request(&mut self, method: &str, path: &str, body: &str) -> std::io::Result<Response> {
        let mut stream = TcpStream::connect_timeout(&self.address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let mut head = format!("{method} {path} HTTP/1.0\r\nHost: {}\r\n", self.host);
        if !self.cookies.is_empty() {
            let pairs: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            head += &format!("Cookie: {}\r\n", pairs.join("; "));
        }
        if method == "POST" {
            head += &format!("Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n", body.len());
        }
        stream.write_all(format!("{head}\r\n{body}").as_bytes())?;
        let mut answer = vec![];
        stream.read_to_end(&mut answer)?;
        let response = Response::parse(&answer)?;
        for (_, cookie) in response.headers.iter().filter(|(name, _)| name == "set-cookie") {
            if let Some((name, value)) = cookie.split(';').next().and_then(|pair| pair.split_once('=')) {
                self.cookies.insert(name.trim().to_owned(), value.to_owned());
            }
        }
        Ok(response)
    }
}

/// The first line of a request or an answer, and its headers with names in lower case.
pub(crate) fn head_of(head: &str) -> (&str, Vec<(String, String)>) {
    let (line, headers) = head.split_once("\r\n").unwrap_or((head, ""));
    let headers = headers.lines().filter_map(|line| line.split_once(':'));
    (line, headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect())
}

fn encode(text: &str) -> String {
    let byte = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => (b as char).to_string(),
        b => format!("%{b:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_field_is_found_whatever_its_quotes() {
        let body = r#"<p><input type="hidden" value="42" name="nonce"/><input name='b' value='x y'>"#;
        let response = Response { status: 200, headers: vec![], body: body.into() };
        assert_eq!(response.field("nonce"), "42");
        assert_eq!(response.field("b"), "x y");
        assert_eq!(encode("a b&ü"), "a%20b%26%C3%BC");
    }
}
