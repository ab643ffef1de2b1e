//! The REST interface as types: requests, replies, error codes, stream frames and WebSocket
//! messages. The server, the Rust client and the command line compile against this one definition;
//! `docs/http.md` says what the routes promise.
//!
//! Requests decode leniently (unknown keys are ignored, every optional key may be missing or
//! `null`) and precisely (a wrong type is an error that says what would be right). Replies only
//! ever gain keys.

mod audit;
mod code;
mod exec;
mod file;
mod key;
mod lenient;
mod observe;
mod quota;
mod sandbox;
mod schema;
mod socket;
mod system;
mod template;
mod worker;
mod worker_token;

pub use audit::{AdminRecord, OperationRecord};
pub use code::{Code, ErrorBody};
pub use exec::{ExecReply, ExecRequest, StreamFrame, StreamKind, TtySize};
pub use file::{ChmodRequest, FileInfo, FileKind, MoveRequest, WriteReply, WriteRequest};
pub use key::{Key, KeyRequest};
pub use observe::{
    Build, Diagnostics, EventStats, JobStats, LeaseStats, LimitStats, Memory, Metrics,
    OperationStats, Process, ProviderStats, RateLimitStats, SandboxStats, SchedulerStats,
    SystemStats, WorkerItem, WorkerStats,
};
pub use quota::{OwnerQuota, OwnerUsage, QuotaRequest};
pub use sandbox::{
    AdmissionExplained, AdmissionReply, CauseView, ExtendRequest, PruneReply, RejectedWorker,
    Sandbox, SpawnRequest, StatsReply, StatusReply,
};
pub use schema::pattern;
pub use socket::{ClientMessage, ControlMessage, ServerMessage, Signal, UnknownSignal};
pub use system::{
    Event, Health, Image, PoolStatus, Provider, ProviderConfig, ProviderDetail, QuotaSummary,
    Ready, StoreHealth,
};
pub use template::{Template, TemplateRequest, TemplateSecret, TemplateSpawnRequest};
pub use worker::{
    CapacityRequest, HeartbeatReply, HeartbeatRequest, Lease, OfferRequest, RenewReply,
    RenewRequest, Worker, WorkerCapacity, WorkerLoad, WorkerOffer,
};
pub use worker_token::{WorkerToken, WorkerTokenRequest};
