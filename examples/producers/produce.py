"""Writes a few records of each stream to Kafka, as a production system would.

    pip install confluent-kafka
    python examples/producers/produce.py BROKERS                        trajectories, calls, scores; one is deleted
    python examples/producers/produce.py BROKERS chat.jsonl             an OpenAI-style log, keyed by its own ids

The parts between `region` and `endregion` stand in docs/guide/producing.md, and a test compares them.
"""

import json
import sys

# region producer
from confluent_kafka import KafkaException, Producer


def new_producer(brokers, **more):
    return Producer(
        {
            "bootstrap.servers": brokers,
            "enable.idempotence": True,  # retries neither repeat nor reorder; implies acks=all
            "partitioner": "murmur2_random",  # that of the Java clients: a key has one partition, whoever writes
            "compression.type": "zstd",
            "linger.ms": 50,
            "message.max.bytes": 20 << 20,  # as large as the topic takes them
            **more,
        }
    )


def delivered(error, message):
    if error is not None:  # raised again by poll() and flush()
        raise KafkaException(error)


def send(producer, topic, identity, record, millis=0):
    """Sends a record under its identity; None deletes. `millis`: when it happened, if that is not now."""
    value = None if record is None else json.dumps(record)
    while True:
        try:
            producer.produce(topic, key=identity, value=value, timestamp=millis, on_delivery=delivered)
            return producer.poll(0)
        except BufferError:  # the queue is full: wait until some have gone
            producer.poll(1)


# endregion


# region streams
def send_trajectory(producer, trajectory):
    send(producer, "trajectories", trajectory["id"], trajectory)


def send_call(producer, call):
    send(producer, "calls", call["request_id"], call)


def send_score(producer, score):
    send(producer, "scores", score["row_id"], score)


def delete_trajectory(producer, identity):
    send(producer, "trajectories", identity, None)


# endregion


# region transaction
def send_together(producer, records):
    """Sends (topic, identity, record) triples so that readers see all of them or none."""
    producer.begin_transaction()
    try:
        for topic, identity, record in records:
            send(producer, topic, identity, record)
        producer.commit_transaction()
    except BaseException:
        producer.abort_transaction()
        raise


# endregion


# region chat
def send_chat_log(producer, path):
    for line in open(path, encoding="utf-8"):
        record = json.loads(line)
        identity = record["response"].get("id")  # of a call that failed there is none: nothing to learn from
        if identity is not None:
            send(producer, "calls", identity, record)


# endregion


def example(name, answer):
    question = {"role": "user", "content": "How many metres are three kilometres?"}
    messages = [question, {"role": "assistant", "content": answer}]
    return {"id": name, "task_id": "units", "agent": "calm", "model": "harbor-8b", "messages": messages}


def main(brokers, *logs):
    producer = new_producer(brokers)
    for log in logs:
        send_chat_log(producer, log)
    if not logs:
        send_trajectory(producer, example("try-1", "They are 3000 metres."))
        send_trajectory(producer, example("try-2", "They are 300 metres."))
        send_trajectory(producer, example("try-3", "I cannot say."))
        call = {"request_id": "call-1", "prompt": example("", "")["messages"][:1], "response": "3000 metres."}
        send_call(producer, call | {"model": "harbor-8b", "session_id": "s-1", "status": 200})
        delete_trajectory(producer, "try-3")
        together = new_producer(brokers, **{"transactional.id": "judge-1"})
        together.init_transactions()
        score = {"metric": "is_correct", "judge": "units", "judge_type": "programmatic"}
        rows = [("score-1", "try-1", 1), ("score-2", "try-2", 0)]
        refs = [(row, {"file": "trajectories", "id": run}, value) for row, run, value in rows]
        scores = [score | {"row_id": row, "ref": ref, "score": value} for row, ref, value in refs]
        send_together(together, [("scores", row["row_id"], row) for row in scores])
        comment = {"row_id": "score-3", "metric": "is_correct", "score": 1, "ref": {"file": "calls", "id": "call-1"}}
        send_score(producer, comment)
    producer.flush()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
