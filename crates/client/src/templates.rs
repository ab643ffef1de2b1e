//! Templates.

use http::Method;
use stacyvm_api_types::{Sandbox, StatusReply, Template, TemplateRequest, TemplateSpawnRequest};

use crate::{Answer, Client, Result, server::Target, transport::Call};

fn template(name: &str) -> Target {
    Target::new("/templates").segment(name)
}

impl Client {
    /// The templates, by name.
    pub async fn templates(&self) -> Result<Answer<Vec<Template>>> {
        self.ask(Call::get(Target::new("/templates"))).await
    }

    /// One template.
    pub async fn template(&self, name: &str) -> Result<Answer<Template>> {
        self.ask(Call::get(template(name))).await
    }

    /// Makes a template; one that exists is a conflict.
    pub async fn create_template(&self, request: &TemplateRequest) -> Result<Answer<Template>> {
        self.ask(Call::new(Method::POST, Target::new("/templates")).json(request)?).await
    }

    /// Changes what the request names of a template.
    pub async fn update_template(
        &self,
        name: &str,
        request: &TemplateRequest,
    ) -> Result<Answer<Template>> {
        self.ask(Call::new(Method::PUT, template(name)).json(request)?).await
    }

    /// Removes a template.
    pub async fn delete_template(&self, name: &str) -> Result<Answer<StatusReply>> {
        self.ask(Call::new(Method::DELETE, template(name))).await
    }

    /// Makes a sandbox from a template. It is never sent twice.
    pub async fn spawn_template(
        &self,
        name: &str,
        request: &TemplateSpawnRequest,
    ) -> Result<Answer<Sandbox>> {
        let target = template(name).segment("spawn");
        self.ask(Call::new(Method::POST, target).json(request)?.endless()).await
    }
}
