//! The writer's thread: which calls share a commit, and what that commit waits for.
//!
//! A commit waits for the disk when a call in it needs that. Of the calls that are there, those that
//! do not are committed and answered first, without the disk: nobody who waits for one of the others
//! can have seen its answer yet, so either order is one in which they may have come. SQLite writes
//! its log in order, so the next commit that waits takes the earlier ones along.
//!
//! Readers see a commit that waits only after its sync, and one that does not at once; so ids of
//! events that readers may have seen can be lost with the host. They are therefore given out of a
//! reservation that the disk has, which every waiting commit renews, and which the next opening
//! skips.

use std::{collections::VecDeque, sync::Arc};

use rusqlite::Connection;
use stacyvm_store::{Durability, Error};
use tokio::sync::mpsc;

use super::{Call, Failure, Needs};
use crate::{
    db::Tx,
    sql,
    sqlite::{open, recent::Recent, syncer::Tail},
};

/// Calls that share one commit at most, so that the first of them does not wait for long.
const GROUP: usize = 128;
/// Ids of events that may be given out between two commits that wait for the disk. When they are
/// used up the next commit waits, whatever it needs.
pub(super) const RESERVED_IDS: u32 = 1024;
/// Bytes of pages in the log after which they are moved to the main file. Until the log has its
/// size after a start, each sync also makes the file longer and costs half as much again, so not
/// more; the calls that come meanwhile wait for a checkpoint, so not much less.
pub(super) const LONG_LOG: i64 = 8 << 20;

/// Calls to run in one transaction, and what that transaction reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Group {
    calls: usize,
    durability: Durability,
}

/// The thread's own.
pub(super) struct Work {
    connection: Connection,
    /// What the connection's commits reach now.
    durability: Durability,
    /// Ids that may still be given out before the disk is waited for.
    reserved: usize,
    /// Whether something was answered that this connection did not sync.
    has_tail: bool,
    /// As many pages are a long log.
    long_log: i64,
    /// The same for the others, and whether a sync failed that was to take it along.
    tail: Arc<Tail>,
    recent: Arc<Recent>,
}

impl Work {
    /// Nothing is reserved at first, so the first commit waits for the disk.
    pub(super) fn on(connection: Connection, tail: Arc<Tail>, recent: Arc<Recent>) -> Self {
        // Files that were made by an older version have longer pages.
        let page = connection.pragma_query_value(None, "page_size", |row| row.get::<_, i64>(0));
        Self {
            connection,
            long_log: LONG_LOG / page.unwrap_or(open::PAGE),
            durability: Durability::Disk,
            reserved: 0,
            has_tail: false,
            tail,
            recent,
        }
    }

    pub(super) fn until_closed(mut self, mut queue: mpsc::Receiver<Box<dyn Call>>) {
        let mut waiting = VecDeque::with_capacity(GROUP);
        while let Some(call) = queue.blocking_recv() {
            waiting.push_back(call);
            while waiting.len() < GROUP {
                let Ok(call) = queue.try_recv() else { break };
                waiting.push_back(call);
            }
            // Stable: those with the same need keep their order.
            waiting.make_contiguous().sort_by_key(|call| matches!(call.needs(), Needs::Disk));
            while !waiting.is_empty() {
                self.commit_group(&mut waiting);
            }
        }
        self.leave_one_file();
    }

    /// An orderly stop: no id is skipped after it, and what the log holds goes to the main file.
    fn leave_one_file(&self) {
        // The checkpoint syncs the log before anything else, so that this needs no sync of its own.
        let done = if self.reserved == 0 { Ok(()) } else { self.reserve(0) };
        let done = done.map_err(Failure::from).and_then(|()| self.start_log_over());
        if let Err(failure) = done {
            let error = failure.to_error();
            tracing::warn!(error = &error as &dyn std::error::Error, "the last checkpoint failed");
        }
    }

    /// Moves everything to the main file and empties the log.
    fn start_log_over(&self) -> Result<(), Failure> {
        match self.checkpoint("PRAGMA wal_checkpoint(TRUNCATE)")? {
            (0, _) => Ok(()),
            _ => Err(Failure::Busy),
        }
    }

    /// Moves a long log to the main file, as far as readers allow. The next commit then writes from
    /// its beginning.
    fn shorten_log(&mut self) {
        let moved = match self.checkpoint("PRAGMA wal_checkpoint(NOOP)") {
            Ok((_, pages)) if pages < self.long_log => return,
            Ok(_) => self.checkpoint("PRAGMA wal_checkpoint(PASSIVE)"),
            Err(error) => Err(error),
        };
        if let Err(error) = moved {
            self.tear();
            tracing::warn!(error = &error as &dyn std::error::Error, "a checkpoint failed");
        }
    }

    /// Whether somebody was in the way, and the pages of the log.
    fn checkpoint(&self, pragma: &str) -> rusqlite::Result<(i64, i64)> {
        let mut statement = self.connection.prepare_cached(pragma)?;
        statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
    }

    /// The next calls to run: those that need no disk, or else all.
    fn next_group(&mut self, waiting: &VecDeque<Box<dyn Call>>) -> Group {
        let mut calls = 0;
        for call in waiting {
            let Needs::Kernel { events } = call.needs() else { break };
            let Some(left) = self.reserved.checked_sub(events) else { break };
            // Not given back when the commit fails: it may have happened.
            self.reserved = left;
            calls += 1;
        }
        match calls {
            0 => Group { calls: waiting.len(), durability: Durability::Disk },
            calls => Group { calls, durability: Durability::Kernel },
        }
    }

    /// Runs waiting calls in one transaction and answers them. Takes at least one.
    fn commit_group(&mut self, waiting: &mut VecDeque<Box<dyn Call>>) {
        let group = self.next_group(waiting);
        let mut ran = Vec::with_capacity(group.calls);
        let outcome = self.run_group(group, waiting, &mut ran);
        if outcome.is_err() && !self.connection.is_autocommit() {
            rollback(&self.connection);
        }
        if outcome.is_err() && ran.is_empty() {
            // The transaction could not begin, so everybody hears why and nobody waits for the next.
            ran.extend(waiting.drain(..));
        }
        if outcome.is_ok() {
            self.recent.learn(ran.iter().filter_map(|call| call.change()));
        }
        for call in ran {
            call.answer(outcome.as_ref().copied());
        }
        self.shorten_log();
    }

    fn run_group(
        &mut self,
        group: Group,
        waiting: &mut VecDeque<Box<dyn Call>>,
        ran: &mut Vec<Box<dyn Call>>,
    ) -> Result<(), Failure> {
        if self.tail.is_torn() {
            self.start_log_over()?;
            self.tail.heal();
        }
        self.commits_reach(group.durability)?;
        let connection = &self.connection;
        let mut changed = false;
        execute(connection, "BEGIN IMMEDIATE")?;
        while ran.len() < group.calls
            && let Some(mut call) = waiting.pop_front()
        {
            if let Some(id) = call.about() {
                self.recent.forget(id);
            }
            let savepoint = execute(connection, "SAVEPOINT call");
            let keep = savepoint.is_ok() && call.run(&mut Tx::sqlite(connection));
            let failure = match call.failed() {
                Some(Error::DiskFull) => Failure::DiskFull,
                _ => Failure::RolledBack,
            };
            ran.push(call);
            savepoint?;
            if connection.is_autocommit() {
                return Err(failure);
            }
            if !keep {
                execute(connection, "ROLLBACK TO call")?;
            }
            execute(connection, "RELEASE call")?;
            changed |= keep;
        }
        // SQLite syncs only where it writes: with the reservation it always does, so that a call
        // that found nothing left to change is not answered before the tail that it read is safe.
        let renews = group.durability == Durability::Disk && (changed || self.has_tail);
        if renews {
            self.reserve(RESERVED_IDS)?;
        }
        if let Err(error) = execute(connection, "COMMIT") {
            self.tear();
            return Err(error.into());
        }
        if renews {
            self.reserved = RESERVED_IDS as usize;
            self.tail.all_is_synced();
        }
        self.has_tail = group.durability == Durability::Kernel;
        if self.has_tail {
            self.tail.grew();
        }
        Ok(())
    }

    /// Says what the commits that follow reach. In WAL mode `NORMAL` is `FULL` without the sync at
    /// each commit; where the log starts over and at checkpoints both sync.
    fn commits_reach(&mut self, durability: Durability) -> rusqlite::Result<()> {
        if self.durability == durability {
            return Ok(());
        }
        // Never a cached statement: this pragma acts when it is prepared, and not when it is run.
        self.connection.execute_batch(match durability {
            Durability::Disk => "PRAGMA synchronous = FULL",
            Durability::Kernel => "PRAGMA synchronous = NORMAL",
        })?;
        self.durability = durability;
        Ok(())
    }

    /// A sync failed: what it was to take along is not to be relied on.
    fn tear(&self) {
        if self.has_tail {
            self.tail.tear();
        }
    }

    fn reserve(&self, ids: u32) -> rusqlite::Result<()> {
        self.connection.prepare_cached(sql::RESERVE_EVENT_IDS)?.execute([ids]).map(drop)
    }
}

fn rollback(connection: &Connection) {
    if let Err(error) = execute(connection, "ROLLBACK") {
        tracing::error!(error = &error as &dyn std::error::Error, "a rollback failed");
    }
}

fn execute(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.raw_execute().map(|_| ())
}
