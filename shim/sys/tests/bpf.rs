//! Device filters while signals come.

use nix::sys::pthread::{pthread_kill, pthread_self};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use podbox_sys::{BpfInstruction, load_device_filter};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

static SEEN: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: i32) {
    SEEN.fetch_add(1, Ordering::Relaxed);
}

/// "Register 0 is 0" as often as it is asked for, and then "exit".
fn long_program(length: usize) -> Vec<BpfInstruction> {
    let mut program = vec![BpfInstruction::new(0xb7, 0, 0, 0, 0); length];
    program.push(BpfInstruction::new(0x95, 0, 0, 0, 0));
    program
}

#[test]
fn a_signal_that_comes_in_the_middle_does_not_keep_a_filter_from_being_loaded() {
    let action = SigAction::new(SigHandler::Handler(count), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler does nothing but add to an atomic number, which is safe in a handler (`signal-safety(7)`).
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
    let program = long_program(4000);
    let (loader, loaded) = (pthread_self(), AtomicBool::new(false));
    let failed = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !loaded.load(Ordering::Relaxed) {
                pthread_kill(loader, Signal::SIGUSR1).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        });
        let failed = (0..500).find_map(|_| load_device_filter(&program).err());
        loaded.store(true, Ordering::Relaxed);
        failed
    });
    assert!(SEEN.load(Ordering::Relaxed) > 0, "no signal came");
    assert_eq!(failed, None);
}
