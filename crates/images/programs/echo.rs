//! `echo`: an HTTP server that tells who answered and what was asked, for tests.
//!
//! To every request on port `$PORT` (8080) it answers 200 with lines of text: `hostname=…`, then the
//! environment variables whose names begin with `POD_` or `NODE_`, then an empty line and the request
//! as it came. At SIGTERM it takes no more connections, finishes those it has, and leaves with status 0.
//!
//! Each connection is a process of its own. Like `pause` it is static and without the standard
//! library; `no_builtins` keeps the compiler from calling a `memcpy` that nobody provides.
#![no_std]
#![no_main]
#![no_builtins]

mod syscall;

use core::mem::MaybeUninit;

use syscall::{
    ANY_CHILD, SIGCHLD, SIGINT, SIGSET_BYTES, SIGTERM, block_every_signal, bury_children, exit, number, syscall,
};

const DEFAULT_PORT: u16 = 8080;
const BACKLOG: usize = 1024;
/// How long a request may take to come, and what follows it.
const RECEIVE_TIMEOUT_SECONDS: u64 = 10;
const DRAIN_TIMEOUT_SECONDS: u64 = 1;

const AF_INET: u16 = 2;
const SOCK_STREAM: usize = 1;
const SOCK_NONBLOCK: usize = 0o4000;
const SOL_SOCKET: usize = 1;
const SO_REUSEADDR: usize = 2;
const SO_RCVTIMEO: usize = 20;
const SHUT_WR: usize = 1;
const MSG_MORE: usize = 0x8000;
const MSG_NOSIGNAL: usize = 0x4000;
const POLLIN: i16 = 1;
/// `uname` fills six names of this length, the host's the second.
const NAME_BYTES: usize = 65;
const REQUEST_BYTES: usize = 16384;

#[repr(C)]
struct PollFd {
    fd: i32,
    events: i16,
    returned: i16,
}

/// Memory on the stack that the kernel fills; to fill it with zeros first would call `memset`.
struct Memory<const BYTES: usize>(MaybeUninit<[u8; BYTES]>);

impl<const BYTES: usize> Memory<BYTES> {
    const fn new() -> Self {
        Memory(MaybeUninit::uninit())
    }

    fn address(&mut self) -> usize {
        self.0.as_mut_ptr() as usize
    }

    /// The first `length` bytes, which the kernel must have filled.
    fn filled(&self, length: usize) -> &[u8] {
        // SAFETY: see above; and the slice is no longer than the memory.
        unsafe { core::slice::from_raw_parts(self.0.as_ptr().cast(), length.min(BYTES)) }
    }
}

extern "C" fn main(stack: *const usize) -> ! {
    block_every_signal();
    let environment = Environment::new(stack);
    let listener = listen(environment.port());
    let wanted: u64 = 1 << (SIGINT - 1) | 1 << (SIGTERM - 1) | 1 << (SIGCHLD - 1);
    let signals = syscall(number::SIGNALFD4, [usize::MAX, &raw const wanted as usize, SIGSET_BYTES, 0, 0]);
    loop {
        let mut polled = [listener, signals].map(|fd| PollFd { fd: fd as i32, events: POLLIN, returned: 0 });
        syscall(number::PPOLL, [polled.as_mut_ptr() as usize, polled.len(), 0, 0, SIGSET_BYTES]);
        // Also before leaving: those who wait in the backlog were promised an answer.
        accept_all(listener as usize, &environment);
        if next_signal().is_some_and(|signal| signal == SIGTERM || signal == SIGINT) {
            syscall(number::CLOSE, [listener as usize, 0, 0, 0, 0]);
            while syscall(number::WAIT4, [ANY_CHILD, 0, 0, 0, 0]) > 0 {}
            exit(0);
        }
        bury_children();
    }
}

/// A pending signal, fetched without waiting.
fn next_signal() -> Option<isize> {
    let every_signal = u64::MAX;
    let no_time = [0_u64; 2];
    let arguments = [&raw const every_signal as usize, 0, &raw const no_time as usize, SIGSET_BYTES, 0];
    Some(syscall(number::SIGTIMEDWAIT, arguments)).filter(|signal| *signal > 0)
}

fn listen(port: u16) -> isize {
    let listener = syscall(number::SOCKET, [AF_INET.into(), SOCK_STREAM | SOCK_NONBLOCK, 0, 0, 0]);
    let yes = 1_u32;
    let option = &raw const yes as usize;
    syscall(number::SETSOCKOPT, [listener as usize, SOL_SOCKET, SO_REUSEADDR, option, size_of::<u32>()]);
    // sockaddr_in: family, port in network order, any address, padding.
    let address = [AF_INET, port.to_be(), 0, 0, 0, 0, 0, 0];
    let bound = syscall(number::BIND, [listener as usize, address.as_ptr() as usize, size_of_val(&address), 0, 0]);
    if bound < 0 || syscall(number::LISTEN, [listener as usize, BACKLOG, 0, 0, 0]) < 0 {
        exit(1);
    }
    listener
}

fn accept_all(listener: usize, environment: &Environment) {
    loop {
        let connection = syscall(number::ACCEPT4, [listener, 0, 0, 0, 0]);
        if connection < 0 {
            return;
        }
        if syscall(number::CLONE, [SIGCHLD as usize, 0, 0, 0, 0]) == 0 {
            answer(connection as usize, environment);
            exit(0);
        }
        syscall(number::CLOSE, [connection as usize, 0, 0, 0, 0]);
    }
}

fn answer(connection: usize, environment: &Environment) {
    receive_within(connection, RECEIVE_TIMEOUT_SECONDS);
    let mut memory = Memory::<REQUEST_BYTES>::new();
    let Some(length) = receive(connection, &mut memory) else { return };
    let more = |text: &[u8]| send(connection, text, MSG_MORE);
    more(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n");
    more(b"hostname=");
    let mut names = Memory::<{ 6 * NAME_BYTES }>::new();
    syscall(number::UNAME, [names.address(), 0, 0, 0, 0]);
    more(host_name(names.filled(6 * NAME_BYTES)));
    more(b"\n");
    environment.each(|variable| {
        if begins(variable, b"POD_") || begins(variable, b"NODE_") {
            more(variable);
            more(b"\n");
        }
    });
    more(b"\n");
    send(connection, memory.filled(length), 0);
    // A body may still be on its way; to close over it would reset the connection and lose the answer.
    receive_within(connection, DRAIN_TIMEOUT_SECONDS);
    syscall(number::SHUTDOWN, [connection, SHUT_WR, 0, 0, 0]);
    while syscall(number::RECVFROM, [connection, memory.address(), REQUEST_BYTES, 0, 0]) > 0 {}
}

fn receive_within(connection: usize, seconds: u64) {
    let time = [seconds, 0];
    let option = &raw const time as usize;
    syscall(number::SETSOCKOPT, [connection, SOL_SOCKET, SO_RCVTIMEO, option, size_of_val(&time)]);
}

/// Receives the head of a request, up to its empty line; returns how much came, `None` if that is no request.
fn receive(connection: usize, memory: &mut Memory<REQUEST_BYTES>) -> Option<usize> {
    let mut length = 0;
    while length < REQUEST_BYTES {
        let arguments = [connection, memory.address() + length, REQUEST_BYTES - length, 0, 0];
        let received = syscall(number::RECVFROM, arguments);
        if received <= 0 {
            return None;
        }
        length += received as usize;
        if memory.filled(length).windows(4).any(|end| begins(end, b"\r\n\r\n")) {
            break;
        }
    }
    Some(length)
}

fn send(connection: usize, text: &[u8], flags: usize) {
    let mut rest = text;
    while !rest.is_empty() {
        let arguments = [connection, rest.as_ptr() as usize, rest.len(), flags | MSG_NOSIGNAL, 0];
        let sent = syscall(number::SENDTO, arguments);
        if sent <= 0 {
            exit(0);
        }
        rest = rest.get(sent as usize..).unwrap_or_default();
    }
}

fn host_name(names: &[u8]) -> &[u8] {
    let name = names.get(NAME_BYTES..).unwrap_or_default();
    let length = name.iter().take_while(|byte| **byte != 0).count();
    name.get(..length).unwrap_or_default()
}

/// Comparing slices would call `memcmp`.
fn begins(text: &[u8], with: &[u8]) -> bool {
    text.len() >= with.len() && text.iter().zip(with).all(|(left, right)| left == right)
}

/// The environment as the kernel lays it out: after the arguments, pointers to texts up to a null pointer.
struct Environment {
    first: *const *const u8,
}

impl Environment {
    /// `stack` is what the kernel entered with: the number of arguments, these, a null pointer, the environment.
    fn new(stack: *const usize) -> Environment {
        // SAFETY: the kernel laid the stack out like this (System V ABI, "Process Initialization").
        let first = unsafe { stack.add(*stack + 2) };
        Environment { first: first.cast() }
    }

    fn each(&self, mut visit: impl FnMut(&'static [u8])) {
        let mut at = self.first;
        // SAFETY: the list ends with a null pointer, every text with a null byte, and all live as long as we do.
        unsafe {
            while !(*at).is_null() {
                let mut length = 0;
                while *(*at).add(length) != 0 {
                    length += 1;
                }
                visit(core::slice::from_raw_parts(*at, length));
                at = at.add(1);
            }
        }
    }

    fn port(&self) -> u16 {
        let mut port = DEFAULT_PORT;
        self.each(|variable| {
            if begins(variable, b"PORT=") {
                let digits = variable.iter().skip(5).map(|digit| u16::from(digit.wrapping_sub(b'0')));
                port = digits.fold(0, |port, digit| port.wrapping_mul(10).wrapping_add(digit));
            }
        });
        port
    }
}
