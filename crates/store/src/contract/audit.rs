//! Cases about the audit log.

use std::{sync::Arc, time::Duration};

use stacyvm_types::{AuditId, Timestamp};

use super::{at, id, owner};
use crate::{
    Store,
    audit::{AdminFilter, AdminRecord, LOOKED_AT, OperationFilter, OperationRecord, Outcome, Page},
};

/// A record id made of a number.
pub fn audit_id(number: u32) -> AuditId {
    let mut entropy = [0; 10];
    entropy[..4].copy_from_slice(&number.to_be_bytes());
    AuditId::from_entropy(entropy)
}

/// An operation whose fields are all different.
pub fn operation(number: u32, second: u64) -> OperationRecord {
    OperationRecord {
        id: audit_id(number),
        at: at(second),
        actor: "key:ci".to_owned(),
        action: "file.write".to_owned(),
        sandbox: Some(id(1)),
        owner: Some(owner("ann")),
        tenant: Some("acme".to_owned()),
        provider: "mock".to_owned(),
        resource: "/workspace/a".to_owned(),
        outcome: Outcome::Success,
        detail: "bytes=4".to_owned(),
        request_id: Some("r-1".to_owned()),
    }
}

/// An admin request whose fields are all different.
pub fn admin_request(number: u32, second: u64) -> AdminRecord {
    AdminRecord {
        id: audit_id(number),
        at: at(second),
        actor: "key:ops".to_owned(),
        method: "PUT".to_owned(),
        path: "/api/v1/admin/quotas/ann".to_owned(),
        status: 200,
        duration: Duration::from_micros(1_234),
        request_id: "r-2".to_owned(),
        remote_addr: "127.0.0.1".to_owned(),
        user_agent: "curl/8".to_owned(),
        tenant: None,
    }
}

fn numbers(page: &Page<OperationRecord>) -> Vec<u32> {
    let number = |record: &OperationRecord| {
        (0..u32::from(u16::MAX)).find(|n| audit_id(*n) == record.id).unwrap()
    };
    page.rows.iter().map(number).collect()
}

async fn read(store: &Arc<dyn Store>, filter: OperationFilter) -> Vec<u32> {
    let page = store.operation_records(filter, None, 100).await.unwrap();
    assert_eq!(page.next, None);
    numbers(&page)
}

/// Every field comes back, absent ones too; a second write of a record changes nothing.
pub async fn a_record_stays_as_it_was_written_first(store: Arc<dyn Store>) {
    let bare = OperationRecord {
        sandbox: None,
        owner: None,
        tenant: None,
        request_id: None,
        outcome: Outcome::Failure,
        resource: "'; -- \" \u{0} \n ü 🦀".to_owned(),
        ..operation(2, 2)
    };
    store.record_operations(vec![operation(1, 1), bare.clone()]).await.unwrap();
    let other = OperationRecord { actor: "eve".to_owned(), ..operation(1, 1) };
    store.record_operations(vec![other]).await.unwrap();
    let page = store.operation_records(OperationFilter::default(), None, 9).await.unwrap();
    assert_eq!(page.rows, [bare, operation(1, 1)]);
    let refused = AdminRecord { status: 403, tenant: Some("t".to_owned()), ..admin_request(4, 4) };
    store.record_admin_requests(vec![admin_request(3, 3), refused.clone()]).await.unwrap();
    store
        .record_admin_requests(vec![AdminRecord { status: 500, ..refused.clone() }])
        .await
        .unwrap();
    store.record_admin_requests(vec![]).await.unwrap();
    let page = store.admin_records(AdminFilter::default(), None, 9).await.unwrap();
    assert_eq!(page.rows, [refused, admin_request(3, 3)]);
}

/// Following `next` meets each record once, also those of one instant, and whatever is added.
pub async fn records_are_read_newest_first_page_by_page(store: Arc<dyn Store>) {
    let records: Vec<_> = (1..=9).map(|n| operation(n, u64::from(n / 3))).collect();
    store.record_operations(records).await.unwrap();
    let mut seen = Vec::new();
    let mut before = None;
    loop {
        let page = store.operation_records(OperationFilter::default(), before, 2).await.unwrap();
        seen.extend(numbers(&page));
        store.record_operations(vec![operation(100, 100)]).await.unwrap();
        let Some(next) = page.next else { break };
        before = Some(next);
    }
    assert_eq!(seen, [9, 8, 7, 6, 5, 4, 3, 2, 1]);
    let none = store.operation_records(OperationFilter::default(), None, 0).await.unwrap();
    assert_eq!(none, Page { rows: Vec::new(), next: None });
}

/// Fields that are set must all match, whichever list is walked.
pub async fn operations_are_filtered_by_every_field(store: Arc<dyn Store>) {
    let with = |number, change: fn(&mut OperationRecord)| {
        let mut record = operation(number, u64::from(number));
        change(&mut record);
        record
    };
    let records = vec![
        with(1, |_| {}),
        with(2, |record| record.actor = "eve".to_owned()),
        with(3, |record| record.action = "exec".to_owned()),
        with(4, |record| record.sandbox = Some(id(2))),
        with(5, |record| record.owner = Some(owner("bob"))),
        with(6, |record| record.outcome = Outcome::Failure),
        with(7, |record| (record.sandbox, record.owner) = (None, None)),
    ];
    store.record_operations(records).await.unwrap();
    let any = OperationFilter::default;
    let actor = Some("key:ci".to_owned());
    let action = Some("file.write".to_owned());
    let (sandbox, ann) = (Some(id(1)), Some(owner("ann")));
    let success = Some(Outcome::Success);
    let failed = OperationFilter { outcome: Some(Outcome::Failure), ..any() };
    assert_eq!(read(&store, failed).await, [6]);
    let succeeded = OperationFilter { outcome: success, ..any() };
    assert_eq!(read(&store, succeeded).await, [7, 5, 4, 3, 2, 1]);
    let by_actor = OperationFilter { actor: actor.clone(), ..any() };
    assert_eq!(read(&store, by_actor.clone()).await, [7, 6, 5, 4, 3, 1]);
    let by_action = OperationFilter { action: action.clone(), ..any() };
    assert_eq!(read(&store, by_action).await, [7, 6, 5, 4, 2, 1]);
    let by_sandbox = OperationFilter { sandbox: sandbox.clone(), ..any() };
    assert_eq!(read(&store, by_sandbox).await, [6, 5, 3, 2, 1]);
    let by_owner = OperationFilter { owner: ann.clone(), ..any() };
    assert_eq!(read(&store, by_owner.clone()).await, [6, 4, 3, 2, 1]);
    let all = OperationFilter { action, sandbox, owner: ann, outcome: success, ..by_actor };
    assert_eq!(read(&store, all.clone()).await, [1]);
    let narrow = |since, until| OperationFilter { since, until, ..all.clone() };
    assert_eq!(read(&store, narrow(Some(at(1)), Some(at(2)))).await, [1], "since is included");
    assert_eq!(read(&store, narrow(None, Some(at(1)))).await, Vec::<u32>::new(), "until is not");
    assert_eq!(read(&store, narrow(Some(at(2)), None)).await, Vec::<u32>::new());
}

/// Method, status, a part of the path, the actor and the time.
pub async fn admin_requests_are_filtered_by_every_field(store: Arc<dyn Store>) {
    let with = |number, change: fn(&mut AdminRecord)| {
        let mut record = admin_request(number, u64::from(number));
        change(&mut record);
        record
    };
    let records = vec![
        with(1, |_| {}),
        with(2, |record| record.actor = "eve".to_owned()),
        with(3, |record| record.method = "GET".to_owned()),
        with(4, |record| record.status = 401),
        with(5, |record| record.path = "/api/v1/admin/audit".to_owned()),
    ];
    store.record_admin_requests(records.clone()).await.unwrap();
    let read = async |filter: AdminFilter| {
        let page = store.admin_records(filter, None, 100).await.unwrap();
        let place = |row: &AdminRecord| records.iter().position(|r| r == row).unwrap() + 1;
        page.rows.iter().map(place).collect::<Vec<_>>()
    };
    let any = AdminFilter::default;
    let actor = Some("key:ops".to_owned());
    assert_eq!(read(any()).await, [5, 4, 3, 2, 1]);
    assert_eq!(read(AdminFilter { actor: actor.clone(), ..any() }).await, [5, 4, 3, 1]);
    assert_eq!(read(AdminFilter { method: Some("GET".to_owned()), ..any() }).await, [3]);
    assert_eq!(read(AdminFilter { status: Some(401), ..any() }).await, [4]);
    let path = Some("quotas".to_owned());
    assert_eq!(read(AdminFilter { path: path.clone(), ..any() }).await, [4, 3, 2, 1]);
    assert_eq!(read(AdminFilter { path: Some("%".to_owned()), ..any() }).await, [0_usize; 0]);
    let all = AdminFilter { actor, path, status: Some(200), since: Some(at(1)), ..any() };
    assert_eq!(read(AdminFilter { until: Some(at(3)), ..all }).await, [1]);
}

/// A page of a filter that hardly anything matches is short and says where to go on.
pub async fn a_page_looks_at_a_bounded_number_of_records(store: Arc<dyn Store>) {
    let wanted = OperationRecord { action: "rare".to_owned(), ..operation(0, 0) };
    store.record_operations(vec![wanted]).await.unwrap();
    let count = u32::try_from(LOOKED_AT).unwrap();
    for first in (1..=count).step_by(500) {
        let batch = (first..first + 500).map(|number| operation(number, u64::from(number)));
        store.record_operations(batch.collect()).await.unwrap();
    }
    let rare = OperationFilter { action: Some("rare".to_owned()), ..OperationFilter::default() };
    let page = store.operation_records(rare.clone(), None, 10).await.unwrap();
    assert_eq!(page.rows, []);
    let next = page.next.expect("there is more");
    assert_eq!((next.at, &next.id), (at(1), &audit_id(1)));
    let page = store.operation_records(rare, Some(next), 10).await.unwrap();
    assert_eq!((numbers(&page), page.next), (vec![0], None));
    let late =
        OperationFilter { since: Some(Timestamp::from_micros(i64::MAX)), ..Default::default() };
    let page = store.operation_records(late, None, 10).await.unwrap();
    assert_eq!(page, Page { rows: Vec::new(), next: None });
}
