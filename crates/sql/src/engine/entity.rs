//! What statements answer: ksqlDB's REST entities, serialised as it serialises them.

use serde::Serialize;
use serde_json::Value;

/// One answer of `POST /ksql`. Field names on the wire are ksqlDB's (camel case, `@type`).
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "@type", rename_all_fields = "camelCase")]
#[expect(missing_docs, reason = "the fields are ksqlDB's REST fields, documented there")]
pub enum Entity {
    /// A statement that went through the command topic.
    #[serde(rename = "currentStatus")]
    CurrentStatus {
        statement_text: String,
        command_id: String,
        command_status: CommandStatus,
        command_sequence_number: i64,
        warnings: Vec<Value>,
    },
    /// SHOW STREAMS
    #[serde(rename = "streams")]
    Streams { statement_text: String, streams: Vec<SourceInfo>, warnings: Vec<Value> },
    /// SHOW TABLES
    #[serde(rename = "tables")]
    Tables { statement_text: String, tables: Vec<SourceInfo>, warnings: Vec<Value> },
    /// SHOW QUERIES
    #[serde(rename = "queries")]
    Queries { statement_text: String, queries: Vec<Value>, warnings: Vec<Value> },
    /// DESCRIBE
    #[serde(rename = "sourceDescription")]
    SourceDescription { statement_text: String, source_description: Value, warnings: Vec<Value> },
    /// DESCRIBE STREAMS | TABLES, SHOW … EXTENDED
    #[serde(rename = "source_descriptions")]
    SourceDescriptions { statement_text: String, source_descriptions: Vec<Value>, warnings: Vec<Value> },
    /// EXPLAIN
    #[serde(rename = "queryDescription")]
    QueryDescription { statement_text: String, query_description: Value, warnings: Vec<Value> },
    /// SHOW TOPICS
    #[serde(rename = "kafka_topics")]
    KafkaTopics { statement_text: String, topics: Vec<Value>, warnings: Vec<Value> },
    /// SHOW TOPICS EXTENDED
    #[serde(rename = "kafka_topics_extended")]
    KafkaTopicsExtended { statement_text: String, topics: Vec<Value>, warnings: Vec<Value> },
    /// SHOW PROPERTIES
    #[serde(rename = "properties")]
    Properties {
        statement_text: String,
        properties: Vec<Value>,
        overwritten_properties: Vec<String>,
        default_properties: Vec<String>,
        warnings: Vec<Value>,
    },
    /// SHOW FUNCTIONS
    #[serde(rename = "function_names")]
    FunctionNames { statement_text: String, functions: Vec<Value>, warnings: Vec<Value> },
    /// DESCRIBE FUNCTION
    #[serde(rename = "describe_function")]
    DescribeFunction {
        statement_text: String,
        name: String,
        description: String,
        author: String,
        version: String,
        path: String,
        functions: Vec<Value>,
        #[serde(rename = "type")]
        kind: String,
        warnings: Vec<Value>,
    },
    /// SHOW TYPES
    #[serde(rename = "type_list")]
    TypeList { statement_text: String, types: Value, warnings: Vec<Value> },
    /// SHOW VARIABLES
    #[serde(rename = "variables")]
    Variables { statement_text: String, variables: Vec<Value>, warnings: Vec<Value> },
    /// ASSERT TOPIC
    #[serde(rename = "assert_topic")]
    AssertTopic { statement_text: String, topic_name: String, exists: bool, warnings: Vec<Value> },
    /// A statement that changed nothing, and why (IF NOT EXISTS).
    #[serde(rename = "warning_entity")]
    Warning { statement_text: String, message: String, warnings: Vec<Value> },
}

impl Entity {
    /// Adds a warning to the answer of a statement that went through the command topic.
    pub(crate) fn warn(mut self, sentence: Option<String>) -> Self {
        if let (Self::CurrentStatus { warnings, .. }, Some(sentence)) = (&mut self, sentence) {
            warnings.push(serde_json::json!({ "message": sentence }));
        }
        self
    }
}

/// Outcome of a command.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CommandStatus {
    /// SUCCESS
    pub status: String,
    /// For people.
    pub message: String,
    /// Id of the query it started.
    pub query_id: Option<String>,
}

/// A line of SHOW STREAMS | TABLES.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceInfo {
    /// STREAM or TABLE
    #[serde(rename = "type")]
    pub kind: String,
    /// Name.
    pub name: String,
    /// Topic.
    pub topic: String,
    /// Format of the key.
    pub key_format: String,
    /// Format of the value.
    pub value_format: String,
    /// Whether the key is windowed.
    pub is_windowed: bool,
}
