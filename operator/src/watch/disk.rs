//! Which file to read when. A file is read when its writer has closed it or renamed it into place,
//! so that no half of it is ever seen; a missing file is missed only after a moment, because
//! editors write anew by moving the old one away first.
//!
//! ```text
//! created ──> due in UNCLOSED ──closed, renamed into place──> due now ──> read
//! written ──> due in OPEN ──────────────────'
//! removed, moved away ──> due in GONE ──> still missing: its objects go
//! ```

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind};
use tokio::time::Instant;

use super::Fault;
use super::parse::parse;
use super::store::Store;

/// Where nobody tells that a file was closed (other systems than Linux, hard links), so long a
/// quiet is taken for it.
const UNCLOSED: Duration = Duration::from_millis(500);
/// Whoever writes closes in the end, and that is told wherever writing is: `slow-command > file` empties the file
/// long before it fills it. So long a quiet means that the telling was lost.
const OPEN: Duration = if cfg!(target_os = "linux") { Duration::from_secs(30) } else { UNCLOSED };
/// Longer than any editor takes between moving the old file away and writing the new one.
const GONE: Duration = Duration::from_millis(200);
/// What notifications miss (network file systems, overflowing queues) is found so soon.
const SCAN: Duration = Duration::from_secs(10);
/// Folders in folders; a circle of symbolic links ends here.
const DEPTH: usize = 16;
/// 10,000 Services are some 5 MB.
const FILE_BYTES: u64 = 256 << 20;

/// The files of a directory, as they were last looked at.
#[derive(Debug)]
pub(super) struct Disk {
    root: PathBuf,
    seen: BTreeMap<PathBuf, Print>,
    due: BTreeMap<PathBuf, Instant>,
    scan_at: Instant,
    /// Whether it was looked at once.
    looked: bool,
    /// Why the directory itself cannot be read now.
    unreadable: Option<Fault>,
    pub(super) store: Store,
}

/// What tells one state of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Print {
    modified: Option<SystemTime>,
    length: u64,
    /// A pipe or a device may never end.
    is_file: bool,
}

impl Disk {
    pub(super) fn new(root: &Path, now: Instant) -> Self {
        Self {
            root: root.to_owned(),
            seen: BTreeMap::new(),
            due: BTreeMap::new(),
            scan_at: now,
            looked: false,
            unreadable: None,
            store: Store::default(),
        }
    }

    /// Notes what the system tells.
    pub(super) fn note(&mut self, event: notify::Result<Event>, now: Instant) {
        let Ok(event) = event else {
            self.scan_at = now;
            return;
        };
        if event.need_rescan() {
            self.scan_at = now;
        }
        for path in &event.paths {
            if !is_read(path) || path.is_dir() {
                if matches!(
                    event.kind,
                    EventKind::Create(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
                ) && hides_files(path)
                {
                    self.scan_at = now;
                }
                continue;
            }
            let delay = match event.kind {
                EventKind::Access(AccessKind::Close(AccessMode::Write)) => Duration::ZERO,
                EventKind::Modify(ModifyKind::Name(_)) if path.exists() => Duration::ZERO,
                EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => GONE,
                EventKind::Modify(ModifyKind::Data(_)) => OPEN,
                EventKind::Create(_) | EventKind::Modify(_) | EventKind::Any => UNCLOSED,
                EventKind::Access(_) | EventKind::Other => continue,
            };
            let due = self.due.entry(path.clone()).or_insert(now);
            // Only a close and a removal end the wait for whoever writes.
            *due = if delay == UNCLOSED { (*due).max(now + delay) } else { now + delay };
        }
    }

    /// When to call [`Disk::read`] next.
    pub(super) fn next(&self) -> Instant {
        self.due.values().copied().fold(self.scan_at, Instant::min)
    }

    /// Reads what is due. True: something may have changed.
    pub(super) fn read(&mut self, now: Instant) -> bool {
        if self.scan_at <= now {
            self.scan(now);
        }
        let due: Vec<PathBuf> =
            self.due.iter().filter(|(_, at)| **at <= now).map(|(path, _)| path.clone()).collect();
        for path in &due {
            self.due.remove(path);
            self.read_file(path);
        }
        !due.is_empty()
    }

    /// What is wrong with the directory and its files.
    pub(super) fn faults(&self) -> Vec<Fault> {
        self.unreadable.iter().cloned().chain(self.store.faults()).collect()
    }

    /// Looks for files that differ from what was seen, without reading them.
    fn scan(&mut self, now: Instant) {
        self.scan_at = now + SCAN;
        let mut found = BTreeMap::new();
        self.unreadable = None;
        if let Err(error) = walk(&self.root, DEPTH, &mut found) {
            // What it held stays in force.
            let message = format!("cannot be read ({error}); what it held before stays in force");
            self.unreadable = Some(Fault { place: self.root.display().to_string(), line: None, message });
            return;
        }
        for (path, print) in &found {
            if self.seen.get(path) != Some(print) {
                // One that is being written is read when it is closed; one that was written a
                // moment ago may be, unless this is the first look.
                let fresh = print.modified.is_some_and(|modified| {
                    SystemTime::now().duration_since(modified).is_ok_and(|age| age < UNCLOSED)
                });
                let delay = if fresh && self.looked { UNCLOSED } else { Duration::ZERO };
                self.due.entry(path.clone()).or_insert(now + delay);
            }
        }
        self.looked = true;
        for path in self.seen.keys().filter(|path| !found.contains_key(*path)) {
            self.due.entry(path.clone()).or_insert(now + GONE);
        }
    }

    fn read_file(&mut self, path: &Path) {
        let name = path.strip_prefix(&self.root).unwrap_or(path).to_owned();
        let place = name.display().to_string();
        let text = match print(path) {
            // The print is from before the reading: what is written meanwhile is seen as a change.
            Ok(print) => {
                self.seen.insert(path.to_owned(), print);
                if print.is_file {
                    read(path)
                } else {
                    Err("cannot be read: it is no regular file".to_owned())
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.seen.remove(path);
                self.store.remove(&name);
                return;
            }
            Err(error) => Err(format!("cannot be read: {error}")),
        };
        let parsed = match text {
            Ok(text) => parse(&place, &text),
            Err(message) => Err(Fault {
                place,
                line: None,
                message: format!("{message}; what the file held before stays in force"),
            }),
        };
        self.store.put(&name, parsed);
    }
}

/// Whether files may have come or gone with what stands or stood there: a folder, or a hidden link that others lead
/// through (ConfigMaps). An editor's drafts are neither, and a scan for each would cost a large directory dearly.
fn hides_files(path: &Path) -> bool {
    match path.symlink_metadata() {
        Ok(there) => !there.is_file(),
        Err(_) => !is_hidden(path),
    }
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().and_then(OsStr::to_str).is_none_or(|name| name.starts_with(['.', '#', '~']))
}

/// Whether a file of this name is read: YAML or JSON, and not an editor's.
fn is_read(path: &Path) -> bool {
    let hidden = is_hidden(path);
    let extension = path.extension().and_then(OsStr::to_str);
    !hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}

/// The files that are read of a folder and the folders in it, sorted.
///
/// # Errors
/// When the folder cannot be listed.
pub fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = BTreeMap::new();
    walk(folder, DEPTH, &mut found)?;
    Ok(found.into_keys().collect())
}

fn walk(folder: &Path, depth: usize, found: &mut BTreeMap<PathBuf, Print>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().and_then(OsStr::to_str).is_none_or(|name| name.starts_with('.'));
        if hidden {
            continue;
        }
        // A folder or file that vanishes meanwhile is no reason to give up.
        if path.is_dir() {
            if depth > 0 {
                let _ = walk(&path, depth - 1, found);
            }
        } else if is_read(&path)
            && let Ok(print) = print(&path)
        {
            found.insert(path, print);
        }
    }
    Ok(())
}

fn print(path: &Path) -> std::io::Result<Print> {
    let metadata = std::fs::metadata(path)?;
    Ok(Print { modified: metadata.modified().ok(), length: metadata.len(), is_file: metadata.is_file() })
}

/// A file may have grown since it was looked at, so the limit holds while it is read.
fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES + 1).read_to_string(&mut text));
    match read {
        Ok(_) if text.len() as u64 > FILE_BYTES => {
            Err(format!("larger than {FILE_BYTES} bytes; write several files"))
        }
        Ok(_) => Ok(text),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use notify::event::{CreateKind, DataChange, MetadataKind, RemoveKind, RenameMode};

    use super::*;
    use crate::watch::Change;

    const SHOP: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}";
    const CLOSED: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));
    const WRITTEN: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));

    struct Fixture {
        directory: tempfile::TempDir,
        disk: Disk,
        now: Instant,
    }

    impl Fixture {
        fn new(files: &[(&str, &str)]) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let now = Instant::now();
            let disk = Disk::new(directory.path(), now);
            let mut fixture = Self { directory, disk, now };
            files.iter().for_each(|(name, text)| fixture.write(name, text));
            fixture
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn write(&mut self, name: &str, text: &str) {
            let path = self.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn note(&mut self, kind: EventKind, name: &str) {
            let event = Event::new(kind).add_path(self.path(name));
            self.disk.note(Ok(event), self.now);
        }

        /// The number of objects that changed within this time.
        fn changes_after(&mut self, time: Duration) -> usize {
            self.now += time;
            self.disk.read(self.now);
            self.disk.store.changes().len()
        }

        fn changes(&mut self) -> usize {
            self.changes_after(Duration::ZERO)
        }
    }

    #[test]
    fn the_first_look_finds_everything_but_editors_files() {
        let mut fixture = Fixture::new(&[
            ("a.yaml", SHOP),
            ("deep/er/b.yml", "{apiVersion: v1, kind: Namespace, metadata: {name: b}}"),
            (".a.yaml.swp", SHOP),
            (".hidden/c.yaml", "{apiVersion: v1, kind: Namespace, metadata: {name: c}}"),
            ("a.yaml~", SHOP),
            ("#a.yaml", SHOP),
            ("notes.txt", "not yaml: ["),
        ]);
        assert_eq!(fixture.changes(), 2);
        assert_eq!(fixture.disk.faults(), []);
    }

    #[test]
    fn a_draft_that_is_renamed_into_place_costs_no_scan() {
        let mut fixture = Fixture::new(&[("a.yaml", SHOP), ("b.yaml", "")]);
        assert_eq!(fixture.changes(), 1);
        fixture.write("b.yaml", &SHOP.replace("shop", "b")); // Whose notice is still to come.
        fixture.write(".a.yaml.draft", &SHOP.replace("shop", "shop2"));
        fixture.note(EventKind::Create(CreateKind::File), ".a.yaml.draft");
        fs::rename(fixture.path(".a.yaml.draft"), fixture.path("a.yaml")).unwrap();
        fixture.note(EventKind::Modify(ModifyKind::Name(RenameMode::From)), ".a.yaml.draft");
        fixture.note(EventKind::Modify(ModifyKind::Name(RenameMode::To)), "a.yaml");
        assert_eq!(fixture.changes(), 2, "of a.yaml: one goes, one comes");
        assert_eq!(fixture.changes_after(UNCLOSED * 2), 0, "b.yaml was not looked at");
    }

    #[test]
    fn a_file_is_read_when_it_is_closed() {
        let mut fixture = Fixture::new(&[("a.yaml", SHOP)]);
        assert_eq!(fixture.changes(), 1);
        fixture.write("a.yaml", ""); // Truncated by its writer.
        fixture.note(WRITTEN, "a.yaml");
        assert_eq!(fixture.changes_after(UNCLOSED * 4), 0, "its writer is slow");
        fixture.note(EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)), "a.yaml");
        assert_eq!(fixture.changes_after(UNCLOSED * 2), 0);
        // A scan for another reason does not read it either.
        fixture.note(EventKind::Create(CreateKind::Folder), "folder");
        assert_eq!(fixture.changes(), 0);
        fixture.write("a.yaml", &SHOP.replace("shop", "shop2"));
        fixture.note(WRITTEN, "a.yaml");
        fixture.note(CLOSED, "a.yaml");
        assert_eq!(fixture.changes(), 2); // One goes, one comes.
    }

    #[test]
    fn where_nobody_tells_of_closing_a_quiet_time_does() {
        let mut fixture = Fixture::new(&[]);
        fixture.changes();
        fixture.write("a.yaml", SHOP);
        fixture.note(EventKind::Create(CreateKind::File), "a.yaml");
        assert_eq!(fixture.changes_after(UNCLOSED / 2), 0);
        assert_eq!(fixture.changes_after(UNCLOSED), 1);
    }

    #[test]
    fn an_editor_that_moves_the_old_file_away_first_removes_nothing() {
        let mut fixture = Fixture::new(&[("a.yaml", SHOP)]);
        fixture.changes();
        fs::rename(fixture.path("a.yaml"), fixture.path("a.yaml~")).unwrap();
        fixture.note(EventKind::Modify(ModifyKind::Name(RenameMode::From)), "a.yaml");
        assert_eq!(fixture.changes_after(GONE / 2), 0);
        fixture.write("a.yaml", SHOP);
        fixture.note(CLOSED, "a.yaml");
        assert_eq!(fixture.changes(), 0);
        assert_eq!(fixture.changes_after(GONE * 2), 0);
    }

    #[test]
    fn a_rename_into_place_is_seen_at_once_and_a_removal_soon() {
        let mut fixture = Fixture::new(&[("a.yaml", SHOP)]);
        fixture.changes();
        fixture.write(".new", &SHOP.replace("shop", "shop2"));
        fs::rename(fixture.path(".new"), fixture.path("a.yaml")).unwrap();
        fixture.note(EventKind::Modify(ModifyKind::Name(RenameMode::To)), "a.yaml");
        assert_eq!(fixture.changes(), 2);
        fs::remove_file(fixture.path("a.yaml")).unwrap();
        fixture.note(EventKind::Remove(RemoveKind::File), "a.yaml");
        assert_eq!(fixture.changes(), 0);
        assert_eq!(fixture.changes_after(GONE), 1);
    }

    #[test]
    fn what_nobody_tells_is_found_by_looking() {
        let mut fixture = Fixture::new(&[("a.yaml", SHOP)]);
        fixture.changes();
        fixture.write("b/b.yaml", &SHOP.replace("shop", "b"));
        fs::remove_file(fixture.path("a.yaml")).unwrap();
        assert_eq!(fixture.changes_after(SCAN), 0);
        assert_eq!(fixture.changes_after(GONE), 1);
        assert_eq!(fixture.changes_after(UNCLOSED), 1);
    }

    #[test]
    fn a_directory_that_vanishes_keeps_its_objects() {
        let mut fixture = Fixture::new(&[("a.yaml", SHOP)]);
        fixture.changes();
        let path = fixture.directory.path().to_owned();
        let away = path.with_extension("away");
        fs::rename(&path, &away).unwrap();
        assert_eq!(fixture.changes_after(SCAN), 0);
        assert!(fixture.disk.faults()[0].message.contains("stays in force"));
        fs::rename(&away, &path).unwrap();
        assert_eq!(fixture.changes_after(SCAN), 0);
        assert_eq!(fixture.disk.faults(), []);
    }

    #[test]
    fn a_file_that_is_no_text_is_told_and_keeps_its_objects() {
        let mut fixture = Fixture::new(&[("a.yaml", SHOP)]);
        assert_eq!(fixture.changes(), 1);
        fs::write(fixture.path("a.yaml"), [0xff, 0xfe, 0x00]).unwrap();
        fixture.note(CLOSED, "a.yaml");
        assert_eq!(fixture.changes(), 0);
        assert!(fixture.disk.faults()[0].to_string().starts_with("a.yaml: cannot be read"));
    }

    #[test]
    fn what_never_ends_is_told_and_not_read() {
        let mut fixture = Fixture::new(&[("a.yaml", SHOP)]);
        std::os::unix::fs::symlink("/dev/zero", fixture.path("endless.yaml")).unwrap();
        assert_eq!(fixture.changes(), 1);
        let told = "endless.yaml: cannot be read: it is no regular file";
        assert!(fixture.disk.faults()[0].to_string().starts_with(told), "{:?}", fixture.disk.faults());
        fs::remove_file(fixture.path("endless.yaml")).unwrap();
        fixture.note(EventKind::Remove(RemoveKind::File), "endless.yaml");
        assert_eq!(fixture.changes_after(GONE), 0);
        assert_eq!(fixture.disk.faults(), []);
    }

    #[test]
    fn changes_are_told_by_kind() {
        let mut fixture = Fixture::new(&[("a.yaml", SHOP)]);
        fixture.disk.read(fixture.now);
        assert!(matches!(fixture.disk.store.changes()[..], [Change::Namespace(_, Some(_))]));
    }
}
