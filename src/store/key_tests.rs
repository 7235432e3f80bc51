use std::process::Command;

use super::*;

fn place(directory: &Path) -> Place {
    Place::new(directory, None)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn the_first_start_makes_a_key_and_the_next_ones_read_it() {
    let root = tempfile::tempdir().unwrap();
    let made = place(root.path()).load(None).unwrap();
    let read = place(root.path()).load(Some(made.public())).unwrap();
    assert_eq!(made.public(), read.public());
    assert_eq!(made.sign("x"), read.sign("x"));
    assert_eq!(mode(&root.path().join(KEY_FILE)), 0o600);
    let pem = fs::read_to_string(root.path().join(PUBLIC_FILE)).unwrap();
    assert_eq!(PublicKey::from_pem(&pem).as_ref(), Ok(made.public()));
    // What the documentation says of the text.
    assert!(pem.contains(&format!("MCowBQYDK2VwAyEA{}\n", made.public())), "{pem}");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2, "nothing else is left");
    let other = tempfile::tempdir().unwrap();
    assert_ne!(place(other.path()).load(None).unwrap().public(), made.public());
}

#[test]
fn a_key_that_is_missing_damaged_or_open_to_others_is_never_replaced() {
    let root = tempfile::tempdir().unwrap();
    let made = place(root.path()).load(None).unwrap();
    let path = root.path().join(KEY_FILE);
    let whole = fs::read(&path).unwrap();
    let put = |bytes: &[u8], mode| {
        let _ = fs::remove_file(&path);
        write_new(&path, bytes, mode).unwrap();
    };
    let cause = || place(root.path()).load(Some(made.public())).unwrap_err().to_string();

    for mode in [0o640, 0o604, 0o660, 0o601] {
        put(&whole, mode);
        assert!(cause().contains("others have access"), "{mode:o}: {}", cause());
    }
    for damaged in [&b""[..], b"secret", &whole[..whole.len() / 2], &[0xff; 40_000]] {
        put(damaged, 0o600);
        assert!(cause().contains("damaged"), "{}", cause());
        assert_eq!(fs::read(&path).unwrap(), damaged, "left as it is");
    }
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
    assert!(matches!(place(root.path()).load(Some(made.public())), Err(StoreError::Key { .. })));
    fs::remove_file(&path).unwrap();
    let missing = place(root.path()).load(Some(made.public())).unwrap_err();
    assert!(matches!(missing, StoreError::KeyMissing { .. }), "{missing}");
    assert!(!path.exists());
    put(&whole, 0o600);
    assert_eq!(place(root.path()).load(Some(made.public())).unwrap().public(), made.public());
}

#[test]
fn a_crash_while_the_key_was_made_leaves_no_half_of_one() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("ledger.key.new"), "-----BEGIN").unwrap();
    assert!(place(root.path()).load(None).is_ok());
    assert!(!root.path().join("ledger.key.new").exists());
}

#[test]
fn credentials_go_first_and_are_only_read() {
    let (state, credentials) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let given = place(credentials.path()).load(None).unwrap();
    fs::remove_file(credentials.path().join(PUBLIC_FILE)).unwrap();
    let both = Place::new(state.path(), Some(credentials.path().to_owned()));
    assert_eq!(both.load(None).unwrap().public(), given.public());
    assert!(!state.path().join(KEY_FILE).exists());
    assert!(state.path().join(PUBLIC_FILE).exists());
    assert_eq!(fs::read_dir(credentials.path()).unwrap().count(), 1);

    fs::write(credentials.path().join(KEY_FILE), "damaged").unwrap();
    assert!(matches!(both.load(None), Err(StoreError::Key { .. })));
    assert!(!state.path().join(KEY_FILE).exists(), "damage is no reason for another key");
    fs::remove_file(credentials.path().join(KEY_FILE)).unwrap();
    assert_ne!(both.load(None).unwrap().public(), given.public());
}

#[test]
fn openssl_and_we_read_each_others_keys() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join(KEY_FILE);
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).current_dir(root.path()).output();
        output.ok().inspect(|o| assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr)))
    };
    let Some(_) = openssl(&["genpkey", "-algorithm", "ed25519", "-out", KEY_FILE]) else {
        println!("SKIPPED: there is no openssl here");
        return;
    };
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let theirs = place(root.path()).load(None).unwrap();
    let public = openssl(&["pkey", "-in", KEY_FILE, "-pubout"]).unwrap().stdout;
    assert_eq!(theirs.public().to_pem().as_bytes(), public);
    fs::remove_file(&path).unwrap();
    let ours = place(root.path()).load(None).unwrap();
    let public = openssl(&["pkey", "-in", KEY_FILE, "-pubout"]).unwrap().stdout;
    assert_eq!(ours.public().to_pem().as_bytes(), public);
}
