//! `pause`: process 1 of every pod's sandbox.
//!
//! A pod's containers share the network of one container that does nothing but exist. This program
//! is that container: it waits for signals, buries the children that other processes leave to
//! process 1 (which matters when containers share their PID namespace), and leaves at SIGTERM or SIGINT.
//!
//! It is a static program of about a kilobyte without the standard library, compiled by `build.rs`
//! and carried inside the Coracle binary.
#![no_std]
#![no_main]

mod syscall;

use syscall::{SIGCHLD, SIGINT, SIGSET_BYTES, SIGTERM, block_every_signal, bury_children, exit, number, syscall};

extern "C" fn main(_stack: *const usize) -> ! {
    block_every_signal();
    let every_signal = u64::MAX;
    loop {
        match syscall(number::SIGTIMEDWAIT, [&raw const every_signal as usize, 0, 0, SIGSET_BYTES, 0]) {
            SIGINT | SIGTERM => exit(0),
            SIGCHLD => bury_children(),
            _ => {}
        }
    }
}
