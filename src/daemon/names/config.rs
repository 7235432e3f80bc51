//! The host's resolvers: `/etc/resolv.conf` and `/etc/hosts`, followed as they change.

use std::fs;
use std::os::unix::fs::MetadataExt;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::ResolveHosts;
use hickory_resolver::net::NetError;

const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// What tells one content of the files from another: device, inode, time of change and size.
type Stamp = [Option<(u64, u64, i64, i64, u64)>; 2];

/// A client of the resolvers that the files named when they were last read.
pub struct Resolvers {
    client: Result<TokioResolver, NetError>,
    stamp: Stamp,
}

impl Resolvers {
    pub fn read() -> Self {
        let stamp = stamp();
        Self { client: client(), stamp }
    }

    /// Reads the files again where they changed; true when they did.
    pub fn follow(&mut self) -> bool {
        if stamp() == self.stamp {
            return false;
        }
        *self = Self::read();
        true
    }

    pub fn client(&self) -> Result<TokioResolver, NetError> {
        self.client.clone()
    }
}

fn stamp() -> Stamp {
    FILES.map(|file| {
        let found = fs::metadata(file).ok()?;
        Some((found.dev(), found.ino(), found.mtime(), found.mtime_nsec(), found.size()))
    })
}

fn client() -> Result<TokioResolver, NetError> {
    let mut builder = TokioResolver::builder_tokio()?;
    let options = builder.options_mut();
    // We ask when an answer is over: what is cached here would be old.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Always;
    options.preserve_intermediates = true;
    builder.build()
}
