//! What judges say of a record, and when: models soon and not always rightly, people late and last.

use super::records::{File, Ref, Score, deletion, line, timestamp};
use super::talk::Grade;
use super::traffic::{Subject, Traffic};
use rand::RngExt;

impl Traffic {
    /// Plans the scores of a record that was written at some time.
    pub(super) fn judged(&mut self, at: u64, subject: &Subject) {
        if subject.checkable && self.happens(450) {
            let right = if subject.grade == Grade::Good { 1.0 } else { 0.0 };
            let when = self.after(at, 150..900);
            let score = self.score(when, subject, "is_correct", right, ("test-runner", "programmatic"));
            self.later(when, File::Scores, line(&score));
        }
        if self.happens(750) {
            self.model_and_person(at, subject);
        }
        if self.happens(40) {
            let when = self.after(at, 200..2000);
            let score = self.odd_score(when, subject);
            self.later(when, File::Scores, line(&score));
        }
    }

    /// A model's score; a person looks at some of them, mostly where the model was wrong.
    fn model_and_person(&mut self, at: u64, subject: &Subject) {
        let seen = self.seen_by_model(subject.grade);
        let truth = match subject.grade {
            Grade::Good => 1.0,
            Grade::Fair => 0.5,
            Grade::Poor => 0.0,
        };
        let metric = match self.rng.random_range(0..3) {
            _ if subject.file == "calls" => "wb_score_1_10",
            0 => "plan_correct",
            _ => "is_correct",
        };
        let shown = if metric == "wb_score_1_10" { (1.0 + seen * 9.0).round() } else { seen };
        let when = self.after(at, 300..2200);
        let mut score = self.score(when, subject, metric, shown, ("rubric-2", "llm"));
        self.later(when, File::Scores, line(&score));
        let wrong = (seen - truth).abs() > 0.35;
        if self.happens(if wrong { 450 } else { 60 }) {
            let when = self.after(when, 600..3000);
            let reviewer = format!("reviewer-{:02}", self.rng.random_range(1..12));
            let verdict = self.score(when, subject, "is_correct", truth, (&reviewer, "human"));
            let comment = wrong.then_some("overturns the model's score");
            self.later(when, File::Scores, line(&Score { comment, ..verdict }));
        }
        self.second_thoughts(when, &mut score);
    }

    /// How a model sees an answer: it is sometimes taken in by a bad one, seldom hard on a good one.
    fn seen_by_model(&mut self, grade: Grade) -> f64 {
        let (low, high) = match grade {
            Grade::Good if self.happens(100) => (20, 50),
            Grade::Good => (80, 101),
            Grade::Fair => (40, 85),
            Grade::Poor if self.happens(250) => (80, 96),
            Grade::Poor => (0, 30),
        };
        f64::from(self.rng.random_range(low..high)) / 100.0
    }

    /// A score that is given anew under its own name, or taken back.
    fn second_thoughts(&mut self, given: u64, score: &mut Score) {
        match self.rng.random_range(0..1000) {
            0..20 => {
                let when = self.after(given, 500..2500);
                score.score = Some(if score.metric == "wb_score_1_10" { 6.0 } else { 0.55 });
                score.ts = timestamp(when);
                self.later(when, File::Scores, line(score));
            }
            20..30 => {
                let when = self.after(given, 500..2500);
                self.later(when, File::Scores, deletion("row_id", &score.row_id));
            }
            _ => {}
        }
    }

    fn score(
        &mut self,
        when: u64,
        subject: &Subject,
        metric: &'static str,
        score: f64,
        (judge, judge_type): (&str, &'static str),
    ) -> Score {
        self.scores += 1;
        Score {
            row_id: format!("sc-{:06}", self.scores),
            metric,
            score: Some(score),
            subject: Some(Ref { file: subject.file, id: subject.id.clone() }),
            judge: judge.to_string(),
            judge_type,
            ts: timestamp(when),
            comment: None,
        }
    }

    /// A score that cannot be used, for one of the reasons that there are.
    fn odd_score(&mut self, when: u64, subject: &Subject) -> Score {
        let score = self.score(when, subject, "wb_score_1_10", 7.0, ("rubric-2", "llm"));
        match self.rng.random_range(0..6) {
            0 => Score { metric: "helpfulness", ..score },
            1 => Score { metric: "toxicity", score: Some(0.0), ..score },
            2 => Score { score: Some(11.0), ..score },
            3 => Score { score: None, comment: Some("the judge timed out"), ..score },
            4 => Score { subject: None, ..score },
            _ => {
                let id = format!("{}-staging", subject.id);
                Score { subject: Some(Ref { file: subject.file, id }), ..score }
            }
        }
    }
}
