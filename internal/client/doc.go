// SPDX-License-Identifier: MPL-2.0

// Package client talks to one Databricks workspace, or one account, through the official SDK, hardened for an engine that
// mints credentials: it uses nothing but its [Config], never repeats a create whose outcome is unknown, and lets no secret
// out.
//
// The SDK shapes requests and decodes answers. Everything between the two belongs to the package's own transport:
// authentication, time-outs, retries, the request rate, which throttled answers lower, the offset of Databricks' clock, and the
// verdict on what Databricks said. The SDK's own retries, rate limit, configuration loading and logging are switched off.
//
// Every method makes at most one successful request, lists that come in pages aside, ends within [CallBudget], and fails
// with an [*Error], which says what kind of failure it was and whether the request can have had an effect. Credentials go
// to the host of the config alone, and those for Entra ID to the login host of its cloud. A [Client] may be used by any
// number of goroutines. The package knows nothing of Vault.
package client
