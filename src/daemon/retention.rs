//! Has old attempts removed, beside the loop: however many there are, a decision waits for one small step at most.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::model::Time;
use crate::store::Store;

/// Between two steps: the writer is free for others most of the time.
const PAUSE: Duration = Duration::from_millis(50);

/// The removal that is under way.
#[derive(Debug, Default)]
pub struct Retention {
    task: Option<JoinHandle<()>>,
}

impl Retention {
    /// Begins to remove what was last seen before a time, unless that is still going on.
    pub fn begin(&mut self, store: &Arc<Store>, before: Time) {
        if self.task.as_ref().is_none_or(JoinHandle::is_finished) {
            self.task = Some(tokio::spawn(remove(Arc::clone(store), before)));
        }
    }
}

impl Drop for Retention {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Ends with the first error: whoever writes next meets it too, and says so.
async fn remove(store: Arc<Store>, before: Time) {
    let mut gone = 0;
    loop {
        match store.forget_attempts(before).await {
            Ok(0) => break,
            Ok(step) => gone += step,
            Err(error) => {
                tracing::warn!(%error, "old attempts stay for now");
                break;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    if gone > 0 {
        tracing::info!(rows = gone, "old attempts removed");
    }
}
