//! Models that make trouble: one that fails and panics, so that what it cannot answer ends as a failure
//! and the mill goes on; and one that is slower than the source, so that texts leave the cache before
//! their turn comes.

mod support;

use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use support::held::{Held, rows};
use support::mill::Mill;
use tidemill::cli::{RunSettings, Until};
use tidemill::config::{Sources, resolve};
use tidemill_core::model::{AttemptError, Model};
use tidemill_gpu::Lexical;
use tidemill_oracle::model::Row;
use tidemill_oracle::traffic::Step;
use tidemill_types::ModelId;

/// The model `lexical`, but it panics at some texts and refuses others.
#[derive(Default)]
struct Moody {
    lexical: Lexical,
    /// Times that a text was given to it which it cannot answer.
    attempts: AtomicU64,
}

impl Model for Moody {
    fn id(&self) -> ModelId {
        self.lexical.id()
    }

    fn tokens(&self, text: &str) -> u64 {
        self.lexical.tokens(text)
    }

    fn embed(&self, texts: &[&str]) -> Vec<Result<Vec<f32>, AttemptError>> {
        let answer = |text: &&str| {
            if !text.contains("poison") && !text.contains("refuse") {
                return Ok(self.lexical.vector(text));
            }
            self.attempts.fetch_add(1, Ordering::SeqCst);
            assert!(!text.contains("poison"), "no model can read this");
            Err(AttemptError("this is refused".to_string()))
        };
        texts.iter().map(answer).collect()
    }
}

/// The model `lexical`, but it takes its time.
#[derive(Default)]
struct Slow(Lexical);

impl Model for Slow {
    fn id(&self) -> ModelId {
        self.0.id()
    }

    fn tokens(&self, text: &str) -> u64 {
        self.0.tokens(text)
    }

    fn embed(&self, texts: &[&str]) -> Vec<Result<Vec<f32>, AttemptError>> {
        std::thread::sleep(Duration::from_millis(texts.len() as u64));
        self.0.embed(texts)
    }
}

/// Runs a mill in this process until it is drained.
fn drain(mill: &Mill, model: Arc<dyn Model>, more: &[(&str, &str)]) {
    let app = tidemill::flywheel::app();
    let flags = [("epoch-interval", "20ms"), ("lake-interval", "150ms"), ("workers", "2")];
    let flags = flags.iter().chain(more).map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let sources = Sources { file: Some(mill.configuration()), flags, cores: 2, ..Sources::default() };
    let settings = resolve(&app.settings, &sources).expect("settings").settings;
    let program = (app.program)(&settings.program).expect("the program");
    let run = RunSettings {
        settings,
        input_dir: Some(mill.input()),
        accept_gap: false,
        roll_back: None,
        store_url: mill.store().display().to_string(),
        model,
        until: Until::Drained,
        progress: Arc::new(|_| {}),
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    tidemill::run::run_until(&run, program, runtime.handle(), &AtomicBool::new(false))
        .expect("a drained run");
}

fn trajectory(id: usize, question: &str) -> String {
    let messages = json!([{"role": "user", "content": question}, {"role": "assistant", "content": format!("answer {id}")}]);
    json!({"id": format!("t{id}"), "task_id": "task", "reward": 1, "messages": messages}).to_string() + "\n"
}

fn failures(held: &Held) -> Vec<Row> {
    rows(&held.at(held.reader.newest.epoch))["ai.failures"].clone()
}

#[test]
fn a_text_that_no_model_can_read_ends_as_a_failure_and_is_not_asked_again() {
    let mill = Mill::new(&json!({"holdout": {"tasks": [], "per_10k": 0}}));
    let lines = |from: usize| -> Vec<u8> {
        let question = |id: usize| match id % 20 {
            7 => "poison in a cup".to_string(),
            13 => format!("refuse the number {id}"),
            _ => format!("question {id}"),
        };
        (from..from + 100).map(|id| trajectory(id, &question(id))).collect::<String>().into_bytes()
    };
    let write = |from| mill.write(&[Step { file: "trajectories.jsonl".into(), append: lines(from) }]);
    write(0);
    let model = Arc::new(Moody::default());
    drain(&mill, model.clone(), &[]);
    let held = Held::of(&mill);
    held.hold_all();
    let failed = failures(&held);
    // One text that panics, whoever asks, and five that are refused.
    assert_eq!(failed.len(), 6, "{failed:?}");
    assert!(failed.iter().all(|row| row["attempts"] == 3), "{failed:?}");
    let says = |what: &str| failed.iter().filter(|row| row["error"].to_string().contains(what)).count();
    assert_eq!((says("no model can read this"), says("this is refused")), (1, 5), "{failed:?}");
    let tables = rows(&held.at(held.reader.newest.epoch));
    assert_eq!(tables["ai.embeddings"].len(), 100 + 90, "every answer, and every question that can be read");
    assert_eq!(tables["train.sft"].len(), 4, "the mill goes on");
    // A start asks for nothing of which there is a failure; a new text with an old question neither.
    let asked = model.attempts.swap(0, Ordering::SeqCst);
    assert!(asked >= 6 * 3, "{asked} attempts");
    drain(&mill, model.clone(), &[]);
    assert_eq!(model.attempts.load(Ordering::SeqCst), 0, "a failure was computed again");
    write(100);
    drain(&mill, model.clone(), &[]);
    let held = Held::of(&mill);
    held.hold_all();
    let failed = failures(&held);
    assert_eq!(failed.len(), 6 + 5, "{failed:?}");
}

/// 60 MB of bodies pass through a cache of 24 MiB while the model answers a thousand texts a second.
#[test]
fn texts_that_have_left_the_cache_are_read_back_from_their_rows() {
    let mill = Mill::new(&json!({"holdout": {"tasks": [], "per_10k": 0}, "tokens_max": 100_000}));
    let question = |id: usize| format!("question {id} {}", "tide ".repeat(8000));
    let lines: String = (0..1500).map(|id| trajectory(id, &question(id))).collect();
    mill.write(&[Step { file: "trajectories.jsonl".into(), append: lines.into_bytes() }]);
    drain(&mill, Arc::new(Slow::default()), &[("memory-bytes-max", "384MiB"), ("epoch-bytes-max", "4MiB")]);
    let held = Held::of(&mill);
    held.hold_drained();
    held.hold_log();
}
