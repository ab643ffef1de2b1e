//! Cases about what operators ask.

use std::{collections::BTreeMap, sync::Arc};

use stacyvm_types::{CauseKind, Transition};

use super::{NOW, admit, at, cause, id, steps, worker};
use crate::{Census, LeaseCensus, Store};

/// R2.4: what has ended is not counted, everything else once in each table.
pub async fn a_census_counts_what_lives_by_state_provider_and_worker(store: Arc<dyn Store>) {
    assert_eq!(store.census(at(9)).await.unwrap(), Census::default());
    for (number, deadline) in (1..).zip([100, 100, 1, 100]) {
        admit(&store, number, at(deadline)).await;
    }
    steps(&store, 2, &[Transition::Started]).await;
    steps(&store, 3, &[Transition::Stop(cause(CauseKind::Expired))]).await;
    steps(&store, 4, &[Transition::Stop(cause(CauseKind::Requested)), Transition::Gone]).await;
    let census = store.census(at(9)).await.unwrap();
    assert_eq!((census.total, census.active), (3, 2));
    assert_eq!(census.by_state, BTreeMap::from([("creating", 1), ("expired", 1), ("running", 1)]));
    assert_eq!(census.by_provider, BTreeMap::from([("mock".to_owned(), 3)]));
    assert_eq!(census.by_worker, BTreeMap::from([("w1".to_owned(), 3)]));
}

/// R4.8: a lease lapses at its end; a free one is none.
pub async fn a_census_tells_leases_that_are_held_from_those_that_lapsed(store: Arc<dyn Store>) {
    let free = admit(&store, 1, at(100)).await;
    admit(&store, 2, at(100)).await;
    admit(&store, 3, at(100)).await;
    store.release_lease(&id(1), &worker("w1"), free.generation).await.unwrap();
    store.acquire_lease(&id(3), &worker("w2"), NOW, at(60)).await.unwrap();
    let census = store.census(at(70)).await.unwrap();
    let by_holder = BTreeMap::from([("w1".to_owned(), 1), ("w2".to_owned(), 1)]);
    assert_eq!(census.leases, LeaseCensus { total: 2, lapsed: 1, by_holder });
    let until = store.census(at(50)).await.unwrap();
    assert_eq!(until.leases.lapsed, 1);
    let before = stacyvm_types::Timestamp::from_micros(at(50).as_micros() - 1);
    assert_eq!(store.census(before).await.unwrap().leases.lapsed, 0);
}
