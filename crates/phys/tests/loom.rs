//! Charges against one limit under every interleaving of three threads, preempted a bounded number
//! of times. Run with `RUSTFLAGS="--cfg loom"`.
#![cfg(loom)]

use std::sync::Arc;

use dmakit_phys::Account;

/// Charges, looks, and takes back; says whether it was let in.
fn charge(account: &Account, frames: u64) -> bool {
    let charged = account.charge(frames).is_ok();
    let seen = account.charged();
    assert!(seen <= account.limit(), "{seen} are charged at once");
    if charged {
        assert!(seen >= frames);
        account.uncharge(frames);
    }
    charged
}

#[test]
fn a_limit_is_never_passed_not_even_for_a_moment() {
    loom::model(|| {
        let account = Arc::new(Account::new(5));
        let others = [2, 3].map(|frames| {
            let account = account.clone();
            loom::thread::spawn(move || charge(&account, frames))
        });
        let ours = charge(&account, 3);
        let theirs = others.map(|other| other.join().unwrap());
        // Two of three fit together, so no more than one is ever turned away.
        let admitted = [ours, theirs[0], theirs[1]].into_iter().filter(|in_| *in_);
        assert!(admitted.count() >= 2);
        assert_eq!(account.charged(), 0);
        assert!(account.peak() <= 5);
    });
}

#[test]
fn a_limit_that_is_lowered_lets_nothing_new_in() {
    loom::model(|| {
        let account = Arc::new(Account::new(4));
        account.charge(2).unwrap();
        let other = account.clone();
        let lower = loom::thread::spawn(move || {
            other.set_limit(2);
            other.charge(1).unwrap_err();
        });
        let charged = account.charge(2).is_ok();
        lower.join().unwrap();
        account.charge(1).unwrap_err();
        assert_eq!(account.charged(), if charged { 4 } else { 2 });
    });
}
