//! The YAML files of a directory and its folders, watched.

use std::path::{Path, PathBuf};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::disk::Disk;
use super::{Event, Fault};

/// Notifications that wait to be looked at; more make the notifier wait, and lose nothing.
const NOTIFICATIONS: usize = 1024;

/// Why a directory cannot be a source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not there, or is no directory.
    #[error("--source {path} cannot be read: {error}", path = path.display())]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// It cannot be watched.
    #[error("--source {path} cannot be watched: {error}", path = path.display())]
    Unwatchable {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        error: notify::Error,
    },
    /// A reader panicked.
    #[error("reading the source failed: {0}")]
    Reader(#[from] tokio::task::JoinError),
}

/// A directory that is being watched.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    notifications: mpsc::Receiver<notify::Result<notify::Event>>,
    /// Watches for as long as it is kept.
    _watcher: RecommendedWatcher,
}

impl Directory {
    /// Starts to watch, before anything is read, so that no change falls between.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let unreadable = |error| Error::Unreadable { path: path.to_owned(), error };
        let root = path.canonicalize().map_err(unreadable)?;
        std::fs::read_dir(&root).map_err(unreadable)?;
        let unwatchable = |error| Error::Unwatchable { path: path.to_owned(), error };
        let (sender, notifications) = mpsc::channel(NOTIFICATIONS);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Readers open and close too; that would fill the channel with our own doing.
            let ours = event.as_ref().is_ok_and(is_reading);
            if !ours {
                // An error means that nobody listens any more.
                let _ = sender.blocking_send(event);
            }
        })
        .map_err(unwatchable)?;
        watcher.watch(&root, RecursiveMode::Recursive).map_err(unwatchable)?;
        Ok(Self { root, notifications, _watcher: watcher })
    }

    /// Tells `events` what the files hold, until nobody listens.
    pub async fn run(mut self, events: mpsc::Sender<Event>) -> Result<(), Error> {
        let mut disk = Disk::new(&self.root, Instant::now());
        let mut faults = Vec::new();
        let mut synced = false;
        loop {
            let changed;
            (disk, changed) = read(disk).await?;
            if changed || !synced {
                let changes = disk.store.changes();
                if !changes.is_empty() && events.send(Event::Changes(changes)).await.is_err() {
                    return Ok(());
                }
            }
            if faults != disk.faults() {
                faults = report(&faults, disk.faults());
                if events.send(Event::Faults(faults.clone())).await.is_err() {
                    return Ok(());
                }
            }
            if !synced {
                synced = true;
                if events.send(Event::Synced).await.is_err() {
                    return Ok(());
                }
            }
            tokio::select! {
                Some(event) = self.notifications.recv() => {
                    disk.note(event, Instant::now());
                    while let Ok(event) = self.notifications.try_recv() {
                        disk.note(event, Instant::now());
                    }
                }
                () = tokio::time::sleep_until(disk.next()) => {}
                () = events.closed() => return Ok(()),
            }
        }
    }
}

/// Files are read where it stops nobody else.
async fn read(mut disk: Disk) -> Result<(Disk, bool), Error> {
    Ok(tokio::task::spawn_blocking(move || {
        let changed = disk.read(Instant::now());
        (disk, changed)
    })
    .await?)
}

/// Logs the faults that are new, and says so when all are gone.
fn report(before: &[Fault], now: Vec<Fault>) -> Vec<Fault> {
    for fault in now.iter().filter(|fault| !before.contains(fault)) {
        tracing::warn!(%fault, "source");
    }
    if now.is_empty() {
        tracing::info!("every file of the source can be read again");
    }
    now
}

fn is_reading(event: &notify::Event) -> bool {
    use notify::EventKind::Access;
    use notify::event::{AccessKind, AccessMode};
    matches!(event.kind, Access(kind) if kind != AccessKind::Close(AccessMode::Write))
}
