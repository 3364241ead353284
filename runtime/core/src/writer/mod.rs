//! What a writer does to its store: it claims it, makes segments durable, commits epochs, publishes views and
//! gives up what is not needed any more.
//!
//! ```text
//!  claim ──> Commits  <── sealed epochs ── the workers' seal ── Uploads ──> segments
//!              │  ^ complete publications, what may go
//!              │  └──────────── Publishing (a View, a Collector)
//!              └─ committed roots ──> Publishing, conductor        Sweeper ──> deletes what a root gave up
//! ```
//!
//! Each part is a task or a thread of its own over a [`Store`](crate::store::Store) and an
//! [`Edge`](crate::edge::Edge); nothing here asks the system for time or chance, so that the simulator runs
//! these very parts. What they may do is decided by the state machines of [`commit`](crate::commit) and
//! [`Due`], and checked by the predicates of [`tidemill_types::invariants`] before it is done.

mod claim;
mod collector;
mod commits;
mod kept;
mod publishing;
pub mod requests;
mod subtract;
mod sweeper;
#[cfg(test)]
mod testing;
mod uploads;

pub use claim::{Claim, ClaimError, Claimed, claim_store};
pub use collector::{Collector, Retention};
pub use commits::{CommitWatch, Commits, CommitsEnded, Standing, ToCommitter, idle_max_us};
pub use kept::{kept_root, tag_alone};
pub use publishing::{Due, PublicationWatch, Publishing, ToPublisher};
pub use sweeper::{Sweeper, delete_all};
pub use uploads::{Back, Bodied, UploadWatch, Uploads, segment_epoch, segment_generation};
