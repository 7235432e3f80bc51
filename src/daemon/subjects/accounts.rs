//! Users and groups by name: asked of the host's name services on a thread of their own, because they may ask a
//! network and take their time. While they do not answer, what they said last holds; a name that they do not know is
//! unresolved.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc as line;

use super::Resolved;
use crate::compile::Place;
use crate::kernel::accounts;
use crate::kernel::file_watch::FileWatch;
use crate::kernel::wait::Waiting;
use crate::model::Subject;

/// How long a change of files waits for names that nobody has asked for yet.
const PATIENCE: Duration = Duration::from_millis(500);

/// Names that no file has change without a sign: they are asked for again.
const AGAIN: Duration = Duration::from_secs(10);

fn is_account(subject: &Subject) -> bool {
    matches!(subject, Subject::User(_) | Subject::Group(_))
}

/// What the thread is told; answers carry the number of the question.
enum Ask {
    Watch(BTreeSet<Subject>, u64),
    Again,
}

/// Where all watched accounts are, as of a question.
struct Answer {
    question: u64,
    places: BTreeMap<Subject, Vec<Place>>,
}

/// The users and groups that policies name.
pub struct Accounts {
    /// None before the first one.
    asked: Option<mpsc::Sender<Ask>>,
    answers: line::UnboundedReceiver<Answer>,
    answering: line::UnboundedSender<Answer>,
    files: Option<Waiting<FileWatch>>,
    known: BTreeMap<Subject, Vec<Place>>,
    /// The number of the last question.
    question: u64,
    /// Not told yet.
    changes: BTreeSet<Subject>,
}

impl Accounts {
    pub fn new() -> Self {
        let (answering, answers) = line::unbounded_channel();
        Self {
            asked: None,
            answers,
            answering,
            files: None,
            known: BTreeMap::new(),
            question: 0,
            changes: BTreeSet::new(),
        }
    }

    /// Watches these subjects from now on, as far as they are accounts; waits a moment for the first answers.
    pub fn set(&mut self, subjects: &[Subject]) -> Vec<Resolved> {
        let wanted: BTreeSet<_> = subjects.iter().filter(|subject| is_account(subject)).cloned().collect();
        self.known.retain(|subject, _| wanted.contains(subject));
        self.changes.retain(|subject| wanted.contains(subject));
        for subject in &wanted {
            if !self.known.contains_key(subject) {
                self.known.insert(subject.clone(), Vec::new());
                self.changes.insert(subject.clone());
            }
        }
        if !wanted.is_empty() {
            self.start();
        }
        self.question += 1;
        self.ask(Ask::Watch(wanted.clone(), self.question));
        let deadline = Instant::now() + PATIENCE;
        while !wanted.is_empty() && Instant::now() < deadline {
            match self.answers.try_recv() {
                Ok(answer) => {
                    let done = answer.question == self.question;
                    self.take(answer);
                    if done {
                        break;
                    }
                }
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
        self.next_changes()
    }

    pub fn resolved(&self) -> impl Iterator<Item = Resolved> {
        self.known.iter().map(|(subject, places)| (subject.clone(), places.clone()))
    }

    /// Waits until some account has another number. Safe in `select!`.
    pub async fn changed(&mut self) {
        while self.changes.is_empty() {
            let written = async {
                match &mut self.files {
                    Some(files) => files.readable().await.map(FileWatch::changed).unwrap_or_default(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(answer) = self.answers.recv() => self.take(answer),
                true = written => self.ask(Ask::Again),
            }
        }
    }

    /// Returns what has changed since the last call, without waiting.
    pub fn next_changes(&mut self) -> Vec<Resolved> {
        while let Ok(answer) = self.answers.try_recv() {
            self.take(answer);
        }
        let changes = std::mem::take(&mut self.changes);
        let place = |subject: Subject| {
            let places = self.known.get(&subject)?.clone();
            Some((subject, places))
        };
        changes.into_iter().filter_map(place).collect()
    }

    fn take(&mut self, answer: Answer) {
        for (subject, places) in answer.places {
            if let Some(known) = self.known.get_mut(&subject).filter(|known| **known != places) {
                *known = places;
                self.changes.insert(subject);
            }
        }
    }

    fn ask(&self, ask: Ask) {
        if let Some(asked) = &self.asked
            && asked.send(ask).is_err()
        {
            tracing::error!("nobody looks up users and groups any more: they stay as they are");
        }
    }

    fn start(&mut self) {
        if self.asked.is_some() {
            return;
        }
        self.files = FileWatch::new(&accounts::FILES)
            .and_then(Waiting::new)
            .inspect_err(|error| tracing::error!(%error, "changes of users and groups show late"))
            .ok();
        let (asked, questions) = mpsc::channel();
        let answering = self.answering.clone();
        let spawned =
            thread::Builder::new().name("accounts".to_owned()).spawn(move || answer(&questions, &answering));
        match spawned {
            Ok(_) => self.asked = Some(asked),
            Err(error) => tracing::error!(%error, "users and groups stay unresolved"),
        }
    }
}

/// The thread: looks all names up at each question and every now and then.
fn answer(questions: &mpsc::Receiver<Ask>, answers: &line::UnboundedSender<Answer>) {
    let mut places: BTreeMap<Subject, Vec<Place>> = BTreeMap::new();
    let mut watched = BTreeSet::new();
    let mut question = 0;
    loop {
        match questions.recv_timeout(AGAIN) {
            Ok(Ask::Watch(subjects, number)) => (watched, question) = (subjects, number),
            Ok(Ask::Again) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        places.retain(|subject, _| watched.contains(subject));
        for subject in &watched {
            match accounts::look_up(subject) {
                Ok(place) => drop(places.insert(subject.clone(), place.into_iter().collect())),
                Err(error) => tracing::warn!(%subject, %error, "cannot look it up: it stays what it was"),
            }
        }
        if answers.send(Answer { question, places: places.clone() }).is_err() {
            return;
        }
    }
}
