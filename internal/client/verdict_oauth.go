// SPDX-License-Identifier: MPL-2.0

package client

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// endpointTexts is how to speak of the refusals of a token endpoint.
type endpointTexts struct {
	refused         string   // what happened
	unauthenticated []string // the errors that mean that our credential is refused
	credential      string   // what to do when it is
	other           string   // what to do about another refusal
}

const hintFederation = "check that a federation policy of the service principal that client_id names, or of the account when there is no client_id, has the issuer, the subject and the audience of the identity token, and that the token has not expired"

var endpoints = map[string]endpointTexts{
	opOIDCToken: {
		refused:         "Databricks gave no access token",
		unauthenticated: []string{"invalid_client"},
		credential:      "check client_id and client_secret, that the secret has not expired, and that its service principal may use this workspace",
		other:           "check client_id and client_secret",
	},
	opExchange: {
		refused:         "Databricks gave no access token",
		unauthenticated: []string{"invalid_client", "invalid_grant", "unauthorized_client", "access_denied"},
		credential:      hintFederation,
		other:           hintFederation,
	},
	opEntraToken: {
		refused:         "Entra ID gave no access token",
		unauthenticated: []string{"invalid_client", "invalid_grant", "unauthorized_client"},
		credential:      "check azure_tenant_id, azure_client_id and azure_client_secret, and that the secret has not expired",
		other:           "check azure_tenant_id, azure_client_id and azure_client_secret",
	},
}

const hintExchangeClient = "check that client_id is the application id of an active service principal that may use this workspace or account"

// entraErrors are the errors of Entra ID that the client-credentials grant can meet and that name what is wrong (Microsoft, "Microsoft
// Entra authentication and authorization error codes"; 7000215, 7000222, 7000229, 700016, 500014 and 900023 as seen in public reports). Others are judged
// by the error of OAuth alone.
var entraErrors = map[string]struct {
	kind  Kind
	field string
	hint  string
}{
	"7000215": {Unauthenticated, fieldAzureClientSecret, "azure_client_secret is not a secret of this app; send the secret's value rather than its id"},
	"7000222": {Unauthenticated, fieldAzureClientSecret, "azure_client_secret has expired; create another one for the app in Entra ID, and send that"},
	"700016":  {Unauthenticated, fieldAzureClientID, "the tenant that azure_tenant_id names has no app with this azure_client_id; check which of the two is wrong. azure_client_secret was not looked at"},
	"70001":   {Unauthenticated, fieldAzureClientID, "the app that azure_client_id names is disabled, or is not in the tenant that azure_tenant_id names"},
	"7000112": {Unauthenticated, fieldAzureClientID, "the app that azure_client_id names is disabled in the tenant; enable it in Entra ID, or use another"},
	"7000229": {Unauthenticated, fieldAzureClientID, "the app that azure_client_id names has no service principal in the tenant that azure_tenant_id names; create one (az ad sp create --id …), or check which of the two is wrong. azure_client_secret was not looked at"},
	"90002":   {Unauthenticated, fieldAzureTenantID, "Entra ID knows no such tenant; check azure_tenant_id, and that host is in the cloud of the tenant"},
	"900023":  {Unauthenticated, fieldAzureTenantID, "azure_tenant_id is neither the id nor a domain of a tenant"},
	"90038":   {Unauthenticated, fieldAzureTenantID, "the tenant is in another cloud than host; check azure_tenant_id and host"},
	"500011":  {Unauthenticated, fieldAzureTenantID, "the tenant has no Azure Databricks, so azure_tenant_id is most likely that of another tenant"},
	"500014":  {Refused, "", "Azure Databricks is disabled in the tenant, or its subscription has lapsed, which says nothing about azure_client_secret; let an admin of Entra ID enable it, or check azure_tenant_id"},
	"53003":   {Refused, "", "a Conditional Access policy of the tenant keeps this app out, which says nothing about azure_client_secret; let an admin of Entra ID look at the app's sign-in log"},
}

// The config fields of Entra ID, by their names in Vault.
const (
	fieldAzureTenantID     = "azure_tenant_id"
	fieldAzureClientID     = "azure_client_id"
	fieldAzureClientSecret = "azure_client_secret"
)

var entraCodeText = regexp.MustCompile(`\bAADSTS([0-9]{5,8})\b`)

// entraCode returns the number of an error of Entra ID, "" where there is none.
func entraCode(op, description string) string {
	if found := entraCodeText.FindStringSubmatch(description); op == opEntraToken && found != nil {
		return found[1]
	}
	return ""
}

// judgeOAuth reads the answers of the token endpoints (RFC 6749, section 5.2). Databricks throttles with invalid_request
// and a text that says so.
func judgeOAuth(op string, req *http.Request, r *reply) *Error {
	texts := endpoints[op]
	var answer struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
		Code        string `json:"errorCode"`
		Summary     string `json:"errorSummary"`
	}
	var e *Error
	if json.Unmarshal(r.body, &answer) == nil && (answer.Error != "" || answer.Code != "") {
		e = &Error{ErrorCode: answer.Error, Message: answer.Description}
		if e.ErrorCode == "" {
			e.ErrorCode, e.Message = answer.Code, answer.Summary
		}
	} else {
		e, _, _ = parseEnvelope(req, r)
	}
	if op != opEntraToken && e.deniedEntry(r) {
		return e
	}
	e.what = texts.refused
	text := strings.ToLower(e.Message)
	entra, isEntra := entraErrors[entraCode(op, e.Message)]
	switch {
	case r.status == http.StatusTooManyRequests,
		strings.Contains(text, "throttled"), strings.Contains(text, "too many requests"):
		e.Kind, e.what = Throttled, ""
	case isEntra:
		e.Kind, e.Field, e.hint = entra.kind, entra.field, entra.hint
	case op == opExchange && e.ErrorCode == "invalid_client":
		// No secret is sent along, so all that can be wrong is whom it names.
		e.Kind, e.what, e.Field, e.hint = Unauthenticated, "", "client_id", hintExchangeClient
	case slices.Contains(texts.unauthenticated, e.ErrorCode), r.status == http.StatusUnauthorized:
		e.Kind, e.what, e.hint = Unauthenticated, "", texts.credential
	case r.status >= 500:
		e.Kind = Unavailable
	case r.status == http.StatusRequestTimeout:
		e.Kind = Timeout
	case e.ErrorCode == "invalid_scope":
		e.Kind, e.hint = Refused, "check the scopes; an OAuth secret that is limited to API scopes gives no others"
	case r.status == http.StatusNotFound && op != opEntraToken:
		e.Kind, e.hint = Refused, hintHost
	default:
		e.Kind, e.hint = Refused, texts.other
	}
	return e
}
