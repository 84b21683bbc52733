//! The door to the kernel, for programs without a standard library: entry point and system calls.

use core::arch::{asm, global_asm};

pub const SIGINT: isize = 2;
pub const SIGTERM: isize = 15;
pub const SIGCHLD: isize = 17;
pub const WNOHANG: usize = 1;
pub const ANY_CHILD: usize = usize::MAX;
const SIG_SETMASK: usize = 2;
pub const SIGSET_BYTES: usize = 8;

/// System call numbers (Linux, `arch/x86/entry/syscalls/syscall_64.tbl`).
#[cfg(target_arch = "x86_64")]
#[allow(dead_code, reason = "each program uses some")]
pub mod number {
    pub const CLOSE: usize = 3;
    pub const SIGPROCMASK: usize = 14;
    pub const SOCKET: usize = 41;
    pub const SENDTO: usize = 44;
    pub const RECVFROM: usize = 45;
    pub const SHUTDOWN: usize = 48;
    pub const BIND: usize = 49;
    pub const LISTEN: usize = 50;
    pub const SETSOCKOPT: usize = 54;
    pub const CLONE: usize = 56;
    pub const WAIT4: usize = 61;
    pub const UNAME: usize = 63;
    pub const SIGTIMEDWAIT: usize = 128;
    pub const EXIT_GROUP: usize = 231;
    pub const PPOLL: usize = 271;
    pub const ACCEPT4: usize = 288;
    pub const SIGNALFD4: usize = 289;
}

/// System call numbers (Linux, `include/uapi/asm-generic/unistd.h`).
#[cfg(target_arch = "aarch64")]
#[allow(dead_code, reason = "each program uses some")]
pub mod number {
    pub const CLOSE: usize = 57;
    pub const SIGPROCMASK: usize = 135;
    pub const SOCKET: usize = 198;
    pub const SENDTO: usize = 206;
    pub const RECVFROM: usize = 207;
    pub const SHUTDOWN: usize = 210;
    pub const BIND: usize = 200;
    pub const LISTEN: usize = 201;
    pub const SETSOCKOPT: usize = 208;
    pub const CLONE: usize = 220;
    pub const WAIT4: usize = 260;
    pub const UNAME: usize = 160;
    pub const SIGTIMEDWAIT: usize = 137;
    pub const EXIT_GROUP: usize = 94;
    pub const PPOLL: usize = 73;
    pub const ACCEPT4: usize = 242;
    pub const SIGNALFD4: usize = 74;
}

// The kernel enters with arguments and environment on the stack and no return address; a function
// expects a return address, and here gets the stack as its argument.
#[cfg(target_arch = "x86_64")]
global_asm!(".global _start", "_start:", "mov rdi, rsp", "call {main}", "ud2", main = sym crate::main);
#[cfg(target_arch = "aarch64")]
global_asm!(".global _start", "_start:", "mov x0, sp", "bl {main}", "brk #1", main = sym crate::main);

/// Makes a system call; arguments it does not take are ignored by the kernel.
#[cfg(target_arch = "x86_64")]
pub fn syscall(number: usize, [a, b, c, d, e]: [usize; 5]) -> isize {
    let result: isize;
    // SAFETY: callers pass only memory of their own. The sixth argument, an address length, is always 0.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b, in("rdx") c,
             in("r10") d, in("r8") e, in("r9") 0, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// Makes a system call; arguments it does not take are ignored by the kernel.
#[cfg(target_arch = "aarch64")]
pub fn syscall(number: usize, [a, b, c, d, e]: [usize; 5]) -> isize {
    let result: isize;
    // SAFETY: callers pass only memory of their own. The sixth argument, an address length, is always 0.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a as isize => result, in("x1") b, in("x2") c, in("x3") d,
             in("x4") e, in("x5") 0, options(nostack));
    }
    result
}

/// Blocks every signal: process 1 loses those it does not handle, but never those it blocks.
pub fn block_every_signal() {
    let every_signal = u64::MAX;
    syscall(number::SIGPROCMASK, [SIG_SETMASK, &raw const every_signal as usize, 0, SIGSET_BYTES, 0]);
}

/// Buries the children that have ended; many can hide behind one SIGCHLD.
pub fn bury_children() {
    while syscall(number::WAIT4, [ANY_CHILD, 0, WNOHANG, 0, 0]) > 0 {}
}

/// Ends the program.
pub fn exit(status: usize) -> ! {
    loop {
        syscall(number::EXIT_GROUP, [status, 0, 0, 0, 0]);
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    exit(101)
}
