//! File systems that are full or read-only: small ones of our own, in a mount namespace that nobody else sees.

use std::fs;
use std::io::Write;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use picoseg::store::accepted::{self, Accepted};
use picoseg::store::journal::Place;
use picoseg::store::{Fact, Keeper, Kept, StoreError};

use super::*;

/// Runs a test with an empty file system of `size` at the path it gets, in a namespace that ends with the thread.
fn on_a_file_system_of<F: Future<Output = ()>>(size: &str, test: impl FnOnce(tempfile::TempDir) -> F + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let root = tempfile::tempdir().unwrap();
            if let Err(error) = mount_small(root.path(), size) {
                // Not `eprintln`, which the harness swallows when the test passes.
                let _ = writeln!(
                    std::io::stderr(),
                    "SKIPPED: a file system of its own for this test takes root ({error})"
                );
                return;
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(test(root));
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn mount_small(path: &Path, size: &str) -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    // Nothing that happens here reaches the host's mounts.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let options = format!("size={size}");
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
}

fn remount(path: &Path, flags: MsFlags) {
    let none = None::<&str>;
    mount(none, path, none, MsFlags::MS_REMOUNT | flags, none).unwrap();
}

/// Takes what space is left.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    for size in [4096, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

fn decommission(service: &str) -> Vec<Fact> {
    vec![
        Fact::Record { service: name(service), record: decommissioned(9) },
        Fact::Entry(entry(9, Some(service))),
    ]
}

#[test]
fn a_store_that_cannot_be_created_for_lack_of_space_is_created_once_there_is_some() {
    on_a_file_system_of("64k", |root| async move {
        let ballast = root.path().join("ballast");
        fill(&ballast);
        let store = Store::at(root.path());
        let error = store.reopen().await.unwrap_err();
        assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
        assert!(error.to_string().contains("no space is left"), "{error}");
        fs::remove_file(&ballast).unwrap();
        remount_larger(root.path());
        store.reopen().await.unwrap();
        assert_eq!(store.health().await, Ok(()));
    });
}

fn remount_larger(path: &Path) {
    let none = None::<&str>;
    mount(none, path, none, MsFlags::MS_REMOUNT, Some("size=4m")).unwrap();
}

#[test]
fn a_full_disk_stops_records_but_loses_none() {
    on_a_file_system_of("2m", |root| async move {
        let elsewhere = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::open(root.path(), elsewhere.path(), at(60)).await.keeper;
        assert_eq!(keeper.keep(decommission("before"), at(9)).await, Kept::Recorded(vec![1]));
        let ballast = root.path().join("ballast");
        fill(&ballast);
        let error = exhaust(keeper.store()).await;
        assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
        assert!(keeper.store().health().await.is_err());

        let seqs_before = keeper.store().head().await.unwrap().seq;
        match keeper.keep(decommission("while-full"), at(9)).await {
            Kept::Waiting { keeping, .. } => assert_eq!(keeping.place, Place::Runtime, "{keeping:?}"),
            Kept::Recorded(seqs) => panic!("recorded as {seqs:?} on a full disk"),
        }
        assert_eq!(keeper.store().head().await.unwrap().seq, seqs_before);

        fs::remove_file(&ballast).unwrap();
        keeper.heal(at(60)).await.unwrap();
        assert!(keeper.records().await.unwrap().contains_key(&name("while-full")));
        assert_eq!(keeper.store().verify_ledger().await.unwrap().unwrap().seq, seqs_before + 1);
        assert_eq!(keeper.store().health().await, Ok(()));
    });
}

/// Appends until the space that the log already owns is used up as well.
async fn exhaust(store: &Store) -> StoreError {
    loop {
        if let Err(error) = store.append(&[entry(1, None)]).await {
            return error;
        }
    }
}

#[test]
fn a_full_disk_keeps_the_accepted_files_as_they_were() {
    on_a_file_system_of("64k", |root| async move {
        let accepted = Accepted { settings_text: Some("[paths]\n".to_owned()), ..Accepted::default() };
        accepted::write(root.path(), &accepted).unwrap();
        fill(&root.path().join("ballast"));
        let longer = Accepted { settings_text: Some("#\n".repeat(10_000)), ..Accepted::default() };
        let error = accepted::write(root.path(), &longer).unwrap_err().to_string();
        assert!(error.starts_with("cannot write") && error.contains("accepted.json"), "{error}");
        assert_eq!(accepted::read(root.path()), Ok(Some(accepted)));
        assert!(!root.path().join("accepted.json.tmp").exists());
    });
}

#[test]
fn a_read_only_file_system_is_named_and_closing_goes_on() {
    on_a_file_system_of("4m", |root| async move {
        let elsewhere = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::open(root.path(), elsewhere.path(), at(60)).await.keeper;
        let _ = keeper.keep(decommission("before"), at(9)).await;
        keeper.store().close().await;
        remount(root.path(), MsFlags::MS_RDONLY);

        let error = keeper.heal(at(60)).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("read-only") || text.contains("Read-only"), "{error:?}");
        match keeper.keep(decommission("while-read-only"), at(9)).await {
            Kept::Waiting { keeping, .. } => assert_eq!(keeping.place, Place::Runtime, "{keeping:?}"),
            Kept::Recorded(seqs) => panic!("recorded as {seqs:?} on a read-only file system"),
        }

        remount(root.path(), MsFlags::empty());
        keeper.heal(at(60)).await.unwrap();
        assert_eq!(keeper.store().head().await.unwrap().seq, 2);
    });
}
