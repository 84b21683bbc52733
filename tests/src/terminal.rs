//! A terminal, for commands that want one.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Runs a command on a terminal of 80 by 25, types `input`, and returns what the terminal showed.
///
/// # Panics
/// If there are no pseudo-terminals, or the command cannot be run.
pub fn on_a_terminal(mut command: Command, input: &str) -> String {
    let screen = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
    grantpt(&screen).and_then(|()| unlockpt(&screen)).expect("the other end");
    let size = Winsize { ws_row: 25, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&screen, size).expect("a terminal has a size");
    let name = ptsname(&screen, Vec::new()).expect("it has a name");
    let end = File::options().read(true).write(true).open(name.to_str().expect("of ASCII")).expect("it opens");
    let copy = || Stdio::from(end.try_clone().expect("a copy of a file"));
    let mut child = command.stdin(copy()).stdout(copy()).stderr(copy()).spawn().expect("the command runs");
    drop((command, end));
    let mut screen = File::from(screen);
    screen.write_all(input.as_bytes()).expect("typing");
    let mut shown = vec![];
    let mut part = [0; 4096];
    // The terminal ends with an error once nobody holds its other end.
    while let Ok(length @ 1..) = screen.read(&mut part) {
        shown.extend_from_slice(&part[..length]);
    }
    child.wait().expect("the command ends");
    String::from_utf8_lossy(&shown).into_owned()
}
