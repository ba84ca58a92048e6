//! The ksql REST client: statements to `/ksql`, queries to `/query` as they stream.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use herdsman_sql::{Engine, Session, StatementClass};
use serde_json::{Value, json};

use super::print;
use crate::commands::no_server;
use crate::failure::Failure;

/// A server.
pub(super) struct Client {
    url: String,
    json: bool,
    agent: ureq::Agent,
    /// What SET, UNSET, DEFINE and UNDEFINE changed; sent along with every statement.
    session: Session,
}

impl Client {
    pub(super) fn new(url: &str, json: bool) -> Self {
        let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(2)))
            .build()
            .into();
        Self { url: url.trim_end_matches('/').to_owned(), json, agent, session: Session::default() }
    }

    /// Runs all statements of `script` in order; stops at the first that fails.
    pub(super) fn run_script(&self, script: &str) -> Result<(), Failure> {
        let statements = Engine::split(script)?;
        for (class, statement) in statements {
            self.run(class, &statement)?;
        }
        Ok(())
    }

    /// Runs one statement and prints its answer.
    fn run(&self, class: StatementClass, statement: &str) -> Result<(), Failure> {
        match class {
            StatementClass::Query | StatementClass::Print => return self.query(statement),
            StatementClass::Session => {
                return Ok(self.session.apply(statement)?);
            }
            StatementClass::Other => {}
        }
        let response = self.post("/ksql", statement)?;
        let answer: Value = serde_json::from_reader(response)?;
        if self.json {
            println!("{answer:#}");
            return Ok(());
        }
        for entity in answer.as_array().into_iter().flatten() {
            print::entity(entity);
        }
        Ok(())
    }

    fn query(&self, statement: &str) -> Result<(), Failure> {
        let mut header = false;
        for line in BufReader::new(self.post("/query", statement)?).lines() {
            let line = line?;
            let text = line.trim().trim_start_matches('[').trim_end_matches([',', ']']);
            if text.is_empty() {
                continue;
            }
            let element: Value = serde_json::from_str(text)?;
            let refused = element["errorMessage"]["message"].as_str();
            if self.json {
                println!("{text}");
            } else if refused.is_none() {
                print::row(&element, &mut header);
            }
            if let Some(message) = refused {
                return Err(Failure::new(message));
            }
        }
        Ok(())
    }

    fn post(&self, path: &str, statement: &str) -> Result<impl std::io::Read + use<>, Failure> {
        let body = json!({
            "ksql": statement,
            "streamsProperties": self.session.properties(),
            "sessionVariables": self.session.variables(),
        })
        .to_string();
        let response = self
            .agent
            .post(format!("{}{path}", self.url))
            .header("content-type", "application/vnd.ksql.v1+json")
            .send(body)
            .map_err(|error| no_server(&self.url, &error))?;
        let failed = !response.status().is_success();
        let status = response.status();
        let reader = response.into_body().into_reader();
        if failed {
            let error: Value = serde_json::from_reader(reader).unwrap_or_default();
            if self.json {
                println!("{error:#}");
            }
            let message = error["message"].as_str().map_or_else(|| status.to_string(), str::to_owned);
            return Err(Failure::new(message));
        }
        Ok(reader)
    }
}
