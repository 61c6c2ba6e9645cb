//! Where what the replicas say comes in: the records, shared by the keeper, who reads them, and the other
//! replicas' streams, which write them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::records::Records;
use super::said::Update;
use crate::publish::presence::Presence;
use crate::xds::hub::Hub;

/// The records, and whom to tell that they changed.
#[derive(Debug)]
pub struct Desk {
    /// Who is there.
    pub presence: Arc<Presence>,
    own: Arc<str>,
    hub: Arc<Hub>,
    records: Mutex<Records>,
}

/// A replica's way to the desk; dropped, the replica is disconnected.
#[derive(Debug)]
pub struct Counter {
    desk: Arc<Desk>,
    replica: Arc<str>,
    connection: u64,
}

impl Desk {
    /// The desk of the replica of that name.
    #[must_use]
    pub fn new(own: &str, presence: Arc<Presence>, hub: Arc<Hub>) -> Self {
        let own: Arc<str> = own.into();
        Self { presence, records: Mutex::new(Records::new(own.clone())), own, hub }
    }

    /// The name of this replica.
    #[must_use]
    pub fn own(&self) -> &Arc<str> {
        &self.own
    }

    /// The records; held for as short as possible, never across an await.
    pub fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The clients that have a stream at any replica; none: not all replicas have said.
    #[must_use]
    pub fn connected(&self) -> Option<BTreeSet<Arc<str>>> {
        let records = self.records();
        (!records.is_partial(&self.presence)).then(|| records.connected())
    }

    /// Another replica begins to report.
    #[must_use]
    pub fn connect(self: &Arc<Self>, replica: Arc<str>) -> Counter {
        let connection = self.records().connect(&replica);
        tracing::info!(%replica, "replica reports");
        Counter { desk: self.clone(), replica, connection }
    }
}

impl Counter {
    /// The replica says what is new.
    pub fn update(&self, update: Update) {
        let desk = &self.desk;
        desk.records().update(&self.replica, self.connection, update, &desk.presence, Instant::now());
        desk.hub.notify();
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        tracing::info!(replica = %self.replica, "replica reports no more");
        self.desk.records().disconnect(&self.replica, self.connection, Instant::now());
        self.desk.hub.notify();
    }
}
