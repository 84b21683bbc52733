//! Who holds a port: the answer people need when theirs is taken.
//!
//! Linux tells it in two places: `/proc/net/tcp` maps listening ports to socket inodes, and each
//! process's `fd` directory links to the sockets it has open.

use std::fmt;
use std::fs;

/// The process that listens on a port, as far as the system tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This one.
    Process {
        /// Its id.
        pid: u32,
        /// Its command line.
        command: String,
    },
    /// Some process that we may not look at, or on a system that does not tell.
    Unknown,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Process { pid, command } => write!(f, "process {pid} ({command})"),
            Holder::Unknown => f.write_str("another process"),
        }
    }
}

/// The holder of a TCP port on this machine.
pub(super) fn of_port(port: u16) -> Holder {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let inodes: Vec<String> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .collect();
    let links: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    process_with_any_of(&links).unwrap_or(Holder::Unknown)
}

/// The inodes of sockets in state LISTEN (0A) on a port, from a table in the form of `/proc/net/tcp`.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    let suffix = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let listens = fields.get(1)?.ends_with(&suffix) && *fields.get(3)? == "0A";
            listens.then(|| fields.get(9).map(|inode| (*inode).to_owned())).flatten()
        })
        .collect()
}

fn process_with_any_of(links: &[String]) -> Option<Holder> {
    if links.is_empty() {
        return None;
    }
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let holds = fs::read_dir(process.path().join("fd")).ok()?.flatten().any(|fd| {
            fs::read_link(fd.path()).is_ok_and(|target| links.iter().any(|link| target.as_os_str() == link.as_str()))
        });
        holds.then(|| Holder::Process { pid, command: command(pid) })
    })
}

fn command(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> =
        line.split(|byte| *byte == 0).filter(|word| !word.is_empty()).map(String::from_utf8_lossy).collect();
    if words.is_empty() { "unknown command".into() } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_sockets_tells_who_listens_on_a_port() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4711 1 0 100 0 0 10 0\n\
            1: 0100007F:192B 0100007F:9999 01 00000000:00000000 00:00000000 00000000 0 0 4712 1 0 100 0 0 10 0\n";
        assert_eq!(listening_inodes(table, 6443), ["4711"]);
        assert!(listening_inodes(table, 6444).is_empty());
    }
}
