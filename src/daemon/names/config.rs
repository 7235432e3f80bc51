//! The host's resolvers: `/etc/resolv.conf` and `/etc/hosts`, followed as they change.
//!
//! inotify tells at once. Where it cannot, the files are looked at every second.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::ResolveHosts;
use hickory_resolver::net::NetError;

use crate::kernel::file_watch::FileWatch;
use crate::kernel::wait::Waiting;

const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// What tells one content of the files from another: device, inode, time of change and size.
type Stamp = [Option<(u64, u64, i64, i64, u64)>; 2];

/// How often the files are looked at while nobody tells of their changes.
const LOOK: Duration = Duration::from_secs(1);

/// Tells when the files may have changed.
pub struct Signs {
    watch: Option<Waiting<FileWatch>>,
}

impl Signs {
    pub fn new() -> Self {
        let watch = Self::watch()
            .inspect_err(|error| tracing::warn!(%error, "cannot watch the resolvers of this host"));
        Self { watch: watch.ok() }
    }

    fn watch() -> io::Result<Waiting<FileWatch>> {
        FileWatch::new(&FILES).and_then(Waiting::new)
    }

    /// Returns when the files may have changed. Safe in `select!`.
    pub async fn changed(&mut self) {
        let Some(watch) = &mut self.watch else {
            tokio::time::sleep(LOOK).await;
            // There is a limit to the watches of a user's programs together, which others may have reached for a moment.
            self.watch = Self::watch().ok();
            return;
        };
        if !watch.get_mut().is_complete() {
            // In a second it may be.
            tokio::time::sleep(LOOK).await;
            watch.get_mut().watch();
            return;
        }
        // An error is no reason not to look.
        while watch.readable().await.is_ok_and(|files| !files.changed()) {}
    }
}

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

    /// The name servers of `/etc/resolv.conf`.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        let text = fs::read_to_string(FILES[0]).unwrap_or_default();
        name_servers(&text)
    }

    pub fn client(&self) -> Result<TokioResolver, NetError> {
        self.client.clone()
    }
}

/// resolv.conf(5). A zone behind an address says by which interface, which no packet does.
fn name_servers(text: &str) -> BTreeSet<IpAddr> {
    let mut lines = text.lines().map(str::split_whitespace);
    let address = |words: &mut std::str::SplitWhitespace<'_>| {
        let is_one = words.next() == Some("nameserver");
        words.next().filter(|_| is_one)?.split('%').next()?.parse().ok()
    };
    lines.by_ref().filter_map(|mut words| address(&mut words)).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_as_the_resolver_reads_them() {
        let text =
            "# nameserver 192.0.2.9\nnameserver 127.0.0.53\n nameserver fe80::1%eth0\nsearch example.com\n";
        let expected = ["127.0.0.53", "fe80::1"].map(|text| text.parse().unwrap());
        assert_eq!(name_servers(text), BTreeSet::from(expected));
    }
}
