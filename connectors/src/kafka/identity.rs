//! The ids of topics: what tells a topic from another of the same name that was made after it was deleted.
//!
//! librdkafka can ask for them, its Rust wrapper cannot, so this file alone calls the C library. Each pointer
//! here is either made and destroyed in [`topic_ids`], or lent by the event that is destroyed last.

#![expect(unsafe_code, reason = "the wrapper of librdkafka has no call that describes topics")]

use rdkafka::bindings as rd;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int};
use std::time::Duration;

/// What brokers without topic ids answer: a UUID of zeros.
const NONE: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// The ids of topics, as Kafka's own tools print them. A topic that is not there, or whose broker knows no
/// ids, is left out.
///
/// # Errors
///
/// When no answer comes in time: that no id was told must not look as if there were none.
pub(super) fn topic_ids<C: ClientContext>(
    client: &Client<C>,
    topics: &[String],
    timeout: Duration,
) -> Result<BTreeMap<String, String>, KafkaError> {
    let names: Vec<CString> = topics.iter().filter_map(|topic| CString::new(topic.as_str()).ok()).collect();
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let millis = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
    let mut found = BTreeMap::new();
    // SAFETY: `names` outlives the call, which copies them. The client is alive as long as `client` is lent. What
    // is made here is destroyed here, once, the event after all that it lends has been copied.
    unsafe {
        let rk = client.native_ptr();
        let collection = rd::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        let operation = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let options = rd::rd_kafka_AdminOptions_new(rk, operation);
        let queue = rd::rd_kafka_queue_new(rk);
        let mut why = [0; 256];
        // An answer that comes later than asked for is no harm; `poll` below waits no longer.
        rd::rd_kafka_AdminOptions_set_request_timeout(options, millis, why.as_mut_ptr(), why.len());
        rd::rd_kafka_DescribeTopics(rk, collection, options, queue);
        let event = rd::rd_kafka_queue_poll(queue, millis);
        let mut code = rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__TIMED_OUT;
        if !event.is_null() {
            code = rd::rd_kafka_event_error(event);
            collect(event, &mut found);
            rd::rd_kafka_event_destroy(event);
        }
        rd::rd_kafka_queue_destroy(queue);
        rd::rd_kafka_AdminOptions_destroy(options);
        rd::rd_kafka_TopicCollection_destroy(collection);
        match RDKafkaErrorCode::from(code) {
            RDKafkaErrorCode::NoError | RDKafkaErrorCode::UnsupportedFeature => Ok(found),
            code => Err(KafkaError::AdminOp(code)),
        }
    }
}

/// Copies the ids out of an answer.
///
/// # Safety
///
/// `event` is a live event.
unsafe fn collect(event: *mut rd::rd_kafka_event_t, found: &mut BTreeMap<String, String>) {
    // SAFETY: of a live event that is no such answer, the result is null; else it lends `count` descriptions,
    // each with a name, an error and an id, for as long as it lives.
    unsafe {
        let result = rd::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return;
        }
        let mut count = 0;
        let topics = rd::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        for place in 0..count {
            let topic = *topics.add(place);
            let error = rd::rd_kafka_TopicDescription_error(topic);
            let id = rd::rd_kafka_TopicDescription_topic_id(topic);
            let fine = rd::rd_kafka_error_code(error) == rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
            if !fine || id.is_null() {
                continue;
            }
            let text = |pointer: *const c_char| CStr::from_ptr(pointer).to_string_lossy().into_owned();
            let id = text(rd::rd_kafka_Uuid_base64str(id));
            if id != NONE {
                found.insert(text(rd::rd_kafka_TopicDescription_name(topic)), id);
            }
        }
    }
}
