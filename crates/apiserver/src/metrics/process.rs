//! What the kernel knows of this process: `process_…`, as every Prometheus client has them.

use std::fs;

use coracle_client::metrics::{head, line};

/// Clock ticks a second, as Linux has them in `/proc` on every architecture.
const TICKS: f64 = 100.0;

/// Writes what can be read; elsewhere than on Linux that is nothing.
pub(super) fn render(out: &mut String) {
    let read = |file: &str| fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
    let stat = read("stat");
    // The program's name, which may hold spaces, ends with a parenthesis; `state` is the first field after it.
    let fields: Vec<f64> =
        stat.rsplit(')').next().unwrap_or_default().split(' ').map(|f| f.parse().unwrap_or(0.0)).collect();
    let field = |number: usize| fields.get(number - 2).copied();
    let kilobytes = |name: &str| -> Option<f64> {
        let status = read("status");
        let rest = status.lines().find_map(|line| line.strip_prefix(name))?.to_owned();
        rest.split_whitespace().next()?.parse::<f64>().ok()
    };
    let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot: Option<f64> = boot.lines().find_map(|line| line.strip_prefix("btime ")?.parse().ok());
    let limit = read("limits");
    let limit =
        limit.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok());
    let open = fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as f64);
    let start = field(22).zip(boot).map(|(ticks, boot)| boot + ticks / TICKS);
    let cpu = field(14).zip(field(15)).map(|(user, system)| (user + system) / TICKS);
    for (name, kind, help, value) in [
        ("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.", cpu),
        ("process_max_fds", "gauge", "Maximum number of open file descriptors.", limit),
        ("process_open_fds", "gauge", "Number of open file descriptors.", open),
        (
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory size in bytes.",
            kilobytes("VmRSS:").map(|n| n * 1024.0),
        ),
        ("process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.", start),
        (
            "process_virtual_memory_bytes",
            "gauge",
            "Virtual memory size in bytes.",
            kilobytes("VmSize:").map(|n| n * 1024.0),
        ),
    ] {
        if let Some(value) = value {
            head(out, name, kind, help);
            line(out, name, "", value);
        }
    }
}
