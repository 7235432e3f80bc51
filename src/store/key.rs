//! The key that signs the ledger: Ed25519, in a file that only root reads.
//!
//! | file | what |
//! |---|---|
//! | `$CREDENTIALS_DIRECTORY/ledger.key` | used where the system manager hands it in; never written |
//! | `STATE/ledger.key` | else: PKCS#8 PEM, mode 0600, made at the first start (`openssl genpkey -algorithm ed25519` makes the same) |
//! | `STATE/ledger.pub` | its public half, PEM, for whoever verifies; follows the key |
//!
//! A key that is damaged, that others may read, or that is missing although the ledger was signed before is an error and never
//! a new key: whoever can remove a file must not be able to begin a new signature unnoticed. A new file is complete before it has its
//! name, so that a full disk leaves no half of a key.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::ed25519::pkcs8::{KeypairBytes, PublicKeyBytes};
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use ed25519_dalek::pkcs8::{DecodePublicKey, EncodePublicKey};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use rustix::rand::{GetRandomFlags, getrandom};
use zeroize::{Zeroize, Zeroizing};

use super::StoreError;

/// The name of the secret half, in the state directory and among the credentials.
pub const KEY_FILE: &str = "ledger.key";
/// The name of the public half.
pub const PUBLIC_FILE: &str = "ledger.pub";

/// A key in PEM has some hundred bytes.
const MAX: u64 = 16 << 10;

/// Signs the ledger. Erased from memory when it is dropped.
pub struct Key {
    signing: SigningKey,
    public: PublicKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("public", &self.public).finish_non_exhaustive()
    }
}

/// The public half. Written as the base64 of its 32 bytes, which is also how the text in `ledger.pub` ends.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

/// A text or a file that is no public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is no Ed25519 public key")]
pub struct NoPublicKey;

impl PublicKey {
    /// Reads PEM (`-----BEGIN PUBLIC KEY-----`).
    pub fn from_pem(text: &str) -> Result<Self, NoPublicKey> {
        VerifyingKey::from_public_key_pem(text.trim())
            .map(|key| Self(key.to_bytes()))
            .map_err(|_| NoPublicKey)
    }

    /// PEM, with a line end.
    pub fn to_pem(&self) -> String {
        // Encoding 32 bytes does not fail.
        PublicKeyBytes(self.0).to_public_key_pem(LineEnding::LF).unwrap_or_default()
    }

    /// Whether the signature is of this key; weak keys and signatures that fit several texts never are.
    pub(super) fn verifies(&self, text: &str, signature: &Signature) -> bool {
        VerifyingKey::from_bytes(&self.0)
            .is_ok_and(|key| key.verify_strict(text.as_bytes(), signature).is_ok())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = NoPublicKey;

    fn from_str(text: &str) -> Result<Self, NoPublicKey> {
        let bytes: [u8; 32] =
            STANDARD.decode(text).ok().and_then(|b| b.try_into().ok()).ok_or(NoPublicKey)?;
        VerifyingKey::from_bytes(&bytes).map(|_| Self(bytes)).map_err(|_| NoPublicKey)
    }
}

impl Key {
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    pub(super) fn sign(&self, text: &str) -> Signature {
        self.signing.sign(text.as_bytes())
    }

    fn new(signing: SigningKey) -> Self {
        let public = PublicKey(signing.verifying_key().to_bytes());
        Self { signing, public }
    }

    /// A key of the kernel's randomness.
    fn generate() -> io::Result<Self> {
        let mut secret = Zeroizing::new([0_u8; 32]);
        // Waits until the kernel has enough of it; up to 256 bytes come whole (getrandom(2)).
        match getrandom(secret.as_mut_slice(), GetRandomFlags::empty()) {
            Ok(32) => Ok(Self::new(SigningKey::from_bytes(&secret))),
            Ok(_) => Err(io::Error::other("the kernel gave too little randomness")),
            Err(error) => Err(error.into()),
        }
    }

    fn from_pem(text: &str) -> Option<Self> {
        SigningKey::from_pkcs8_pem(text.trim()).ok().map(Self::new)
    }

    /// Without the public half, which OpenSSL before 3.5 does not read.
    fn to_pem(&self) -> io::Result<Zeroizing<String>> {
        let pair = KeypairBytes { secret_key: self.signing.to_bytes(), public_key: None };
        pair.to_pkcs8_pem(LineEnding::LF).map_err(|error| io::Error::other(error.to_string()))
    }
}

/// Where the key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    state: PathBuf,
    credentials: Option<PathBuf>,
}

impl Place {
    pub fn new(state: &Path, credentials: Option<PathBuf>) -> Self {
        Self { state: state.to_owned(), credentials }
    }

    /// Reads the key; makes one where there is none and none is `expected`, and keeps the public half beside it.
    pub fn load(&self, expected: Option<&PublicKey>) -> Result<Key, StoreError> {
        let given = self.credentials.as_ref().map(|directory| directory.join(KEY_FILE));
        // Some other error than absence has to show.
        let key = match given.map(|path| (read(&path, Readers::Manager), path)) {
            Some((Err(error), _)) if error.kind() == io::ErrorKind::NotFound => self.own(expected)?,
            Some((key, path)) => key.map_err(|error| unusable(&path, &error))?,
            None => self.own(expected)?,
        };
        self.publish(key.public())?;
        Ok(key)
    }

    fn own(&self, expected: Option<&PublicKey>) -> Result<Key, StoreError> {
        let path = self.state.join(KEY_FILE);
        match read(&path, Readers::Owner) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match expected {
                Some(key) => Err(StoreError::KeyMissing { path, key: key.to_string() }),
                None => create(&path).map_err(|error| unusable(&path, &error)),
            },
            key => key.map_err(|error| unusable(&path, &error)),
        }
    }

    fn publish(&self, key: &PublicKey) -> Result<(), StoreError> {
        let path = self.state.join(PUBLIC_FILE);
        let pem = key.to_pem();
        if fs::read_to_string(&path).is_ok_and(|text| text == pem) {
            return Ok(());
        }
        let new = path.with_extension("pub.new");
        let written = write_new(&new, pem.as_bytes(), 0o644)
            .and_then(|()| fs::rename(&new, &path))
            .and_then(|()| sync(&self.state));
        written.map_err(|error| unusable(&path, &error))
    }
}

/// Who else than the owner may be able to read the file.
#[derive(Debug, Clone, Copy)]
enum Readers {
    Owner,
    /// A group as well: the system manager gives a unit's user access by it, in a directory of its own.
    Manager,
}

fn read(path: &Path, readers: Readers) -> io::Result<Key> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let forbidden = match readers {
        Readers::Owner => 0o077,
        Readers::Manager => 0o027,
    };
    if metadata.mode() & forbidden != 0 {
        let mode = metadata.mode() & 0o7777;
        return Err(io::Error::other(format!("others have access to it (mode {mode:04o}); `chmod 600` it")));
    }
    let owner = rustix::process::geteuid().as_raw();
    if metadata.uid() != owner && metadata.uid() != 0 {
        return Err(io::Error::other(format!("it belongs to uid {}", metadata.uid())));
    }
    parse(file)
}

fn parse(file: File) -> io::Result<Key> {
    // Of its full size from the start: growing would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX as usize + 1));
    file.take(MAX + 1).read_to_end(&mut bytes)?;
    let key = match std::str::from_utf8(&bytes) {
        Ok(text) if bytes.len() as u64 <= MAX => Key::from_pem(text),
        Ok(_) | Err(_) => None,
    };
    key.ok_or_else(|| io::Error::other("it is damaged: no Ed25519 key in PKCS#8 PEM"))
}

fn create(path: &Path) -> io::Result<Key> {
    let key = Key::generate()?;
    let new = path.with_extension("key.new");
    let mut pem = key.to_pem()?;
    let written = write_new(&new, pem.as_bytes(), 0o600);
    pem.zeroize();
    written?;
    renameat_with(CWD, &new, CWD, path, RenameFlags::NOREPLACE)?;
    sync(path.parent().unwrap_or(Path::new(".")))?;
    Ok(key)
}

/// Writes and syncs a file that was not there; what a crash left under its name goes.
fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    // Whatever the umask says.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn unusable(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Key { path: path.to_owned(), cause: error.to_string() }
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;
