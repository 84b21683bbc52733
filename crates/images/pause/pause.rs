//! `pause`: process 1 of every pod's sandbox.
//!
//! A pod's containers share the network of one container that does nothing but exist. This program
//! is that container: it waits for signals, buries the children that other processes leave to
//! process 1 (which matters when containers share their PID namespace), and leaves at SIGTERM or SIGINT.
//!
//! It is a static program of about a kilobyte without the standard library, compiled by `build.rs`
//! and carried inside the Coracle binary. Signals are blocked and fetched one by one instead of
//! being handled: the kernel drops unhandled signals for process 1, but never blocked ones.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

const SIGINT: isize = 2;
const SIGTERM: isize = 15;
const SIGCHLD: isize = 17;
const WNOHANG: usize = 1;
const SIG_SETMASK: usize = 2;
const SIGSET_BYTES: usize = 8;

/// Linux system call numbers: rt_sigprocmask, rt_sigtimedwait, wait4, exit_group.
#[cfg(target_arch = "x86_64")]
mod number {
    pub const SIGPROCMASK: usize = 14;
    pub const SIGTIMEDWAIT: usize = 128;
    pub const WAIT4: usize = 61;
    pub const EXIT_GROUP: usize = 231;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const SIGPROCMASK: usize = 135;
    pub const SIGTIMEDWAIT: usize = 137;
    pub const WAIT4: usize = 260;
    pub const EXIT_GROUP: usize = 94;
}

// The kernel enters with a 16-byte aligned stack and no return address; a Rust function expects one.
#[cfg(target_arch = "x86_64")]
global_asm!(".global _start", "_start:", "call {main}", "ud2", main = sym main);
#[cfg(target_arch = "aarch64")]
global_asm!(".global _start", "_start:", "bl {main}", "brk #1", main = sym main);

#[cfg(target_arch = "x86_64")]
fn syscall(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result: isize;
    // SAFETY: the four calls above touch only memory that their callers own.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b, in("rdx") c,
             in("r10") d, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

#[cfg(target_arch = "aarch64")]
fn syscall(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result: isize;
    // SAFETY: the four calls above touch only memory that their callers own.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a as isize => result, in("x1") b, in("x2") c, in("x3") d,
             options(nostack));
    }
    result
}

extern "C" fn main() -> ! {
    let every_signal = u64::MAX;
    let mask = &raw const every_signal as usize;
    syscall(number::SIGPROCMASK, SIG_SETMASK, mask, 0, SIGSET_BYTES);
    loop {
        match syscall(number::SIGTIMEDWAIT, mask, 0, 0, SIGSET_BYTES) {
            SIGINT | SIGTERM => {
                syscall(number::EXIT_GROUP, 0, 0, 0, 0);
            }
            // Many children can hide behind one SIGCHLD.
            SIGCHLD => while syscall(number::WAIT4, usize::MAX, 0, WNOHANG, 0) > 0 {},
            _ => {}
        }
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
