//! Asks for every name, again and again, a bounded number at a time.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::config::{Resolvers, Signs};
use super::schedule::{Asked, Schedule};
use crate::model::{Family, HostName};
use crate::names::News;

/// Names that are asked for at the same time: a resolver is not flooded at a start with a thousand of them.
const AT_ONCE: usize = 16;

/// A question that takes longer has failed, whatever resolv.conf says.
const LIMIT: Duration = Duration::from_secs(20);

/// An answer and how long it holds.
type Answer = Result<(News, Duration), String>;

/// Runs until nobody listens. `look`: at the files of resolvers, whatever the signs are.
pub async fn run(
    mut wanted: watch::Receiver<BTreeSet<HostName>>,
    news: mpsc::Sender<(HostName, News)>,
    known: watch::Sender<BTreeSet<IpAddr>>,
    look: Arc<Notify>,
) {
    // Before they are read: what changes in between shows.
    let mut signs = Signs::new();
    let mut resolvers = Resolvers::read();
    known.send_replace(resolvers.addresses());
    let mut schedule = Schedule::default();
    let mut asking: JoinSet<(HostName, Answer)> = JoinSet::new();
    schedule.set(&names(&wanted.borrow_and_update()), Instant::now());
    loop {
        while asking.len() < AT_ONCE
            && let Some(name) = schedule.next(Instant::now())
        {
            let client = resolvers.client();
            asking.spawn(async move {
                let answer = ask(client, &name).await;
                (name, answer)
            });
        }
        let free = asking.len() < AT_ONCE;
        let first = schedule.first().filter(|_| free);
        tokio::select! {
            changed = wanted.changed() => match changed {
                Ok(()) => schedule.set(&names(&wanted.borrow_and_update()), Instant::now()),
                Err(_) => return,
            },
            Some(done) = asking.join_next() => {
                // A question that panicked is asked again when the files change.
                let Ok((name, answer)) = done else { continue };
                let (what, asked) = judge(answer);
                if schedule.done(&name, asked, Instant::now(), jitter()) && news.send((name, what)).await.is_err() {
                    return;
                }
            }
            () = reached(first) => {}
            () = signs.changed() => {}
            () = look.notified() => {}
        }
        if resolvers.follow() {
            tracing::info!("the resolvers of this host changed");
            known.send_replace(resolvers.addresses());
            schedule.all_at(Instant::now());
        }
    }
}

async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Patterns cannot be asked for.
fn names(wanted: &BTreeSet<HostName>) -> BTreeSet<HostName> {
    wanted.iter().filter(|name| !name.is_pattern()).cloned().collect()
}

fn judge(answer: Answer) -> (News, Asked) {
    match answer {
        Ok((news, holds)) => (news, Asked::Answered(holds)),
        Err(error) => (News::Failed(error), Asked::Failed),
    }
}

/// From 0 to 1.
fn jitter() -> f64 {
    // Keyed anew each time.
    let random = RandomState::new().build_hasher().finish();
    random as f64 / u64::MAX as f64
}

/// Asks for both families at once. One that is not answered leaves what the name has of it; an answer without any
/// address is none.
async fn ask(client: Result<TokioResolver, NetError>, host: &HostName) -> Answer {
    let client = client.map_err(|error| format!("/etc/resolv.conf: {error}"))?;
    // With its last dot: the search list is for people.
    let name = Name::from_ascii(format!("{host}.")).map_err(|error| error.to_string())?;
    let both = async {
        tokio::join!(
            client.lookup(name.clone(), RecordType::A),
            client.lookup(name.clone(), RecordType::AAAA)
        )
    };
    let (v4, v6) =
        tokio::time::timeout(LIMIT, both).await.map_err(|_| format!("no answer within {LIMIT:?}"))?;
    let answers = [(Family::V4, found(v4)), (Family::V6, found(v6))];
    let mut addresses = BTreeSet::new();
    let mut holds = Duration::MAX;
    let mut unanswered = None;
    let mut error = None;
    for (family, answer) in answers {
        match answer {
            Ok((found, valid)) => {
                addresses.extend(found);
                holds = holds.min(valid);
            }
            Err(why) => {
                unanswered = Some(family);
                error = Some(why);
            }
        }
    }
    match addresses.is_empty() {
        true => Err(error.unwrap_or_else(|| "it has no addresses".to_owned())),
        false => Ok((News::Resolved { addresses, unanswered }, holds)),
    }
}

/// The addresses of an answer and how long they hold; none for a name that has none of this family.
fn found(
    answer: Result<hickory_resolver::lookup::Lookup, NetError>,
) -> Result<(Vec<IpAddr>, Duration), String> {
    let lookup = match answer {
        Ok(lookup) => lookup,
        Err(error) if error.is_no_records_found() && !error.is_nx_domain() => {
            return Ok((Vec::new(), Duration::MAX));
        }
        Err(error) => return Err(error.to_string()),
    };
    let address = |data: &RData| match data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    };
    let holds = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or(0);
    let addresses = lookup.answers().iter().filter_map(|record| address(&record.data)).collect();
    Ok((addresses, Duration::from_secs(holds.into())))
}
