// SPDX-License-Identifier: MPL-2.0

package client

import (
	"encoding/json"
	"net/http"
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
	e.what = texts.refused
	text := strings.ToLower(e.Message)
	switch {
	case r.status == http.StatusTooManyRequests,
		strings.Contains(text, "throttled"), strings.Contains(text, "too many requests"):
		e.Kind, e.what = Throttled, ""
	case slices.Contains(texts.unauthenticated, e.ErrorCode), r.status == http.StatusUnauthorized:
		e.Kind, e.what, e.hint = Unauthenticated, "", texts.credential
	case r.status >= 500:
		e.Kind = Unavailable
	case r.status == http.StatusRequestTimeout:
		e.Kind = Timeout
	case e.ErrorCode == "invalid_scope":
		e.Kind, e.hint = Refused, "check the scopes"
	case r.status == http.StatusNotFound && op != opEntraToken:
		e.Kind, e.hint = Refused, hintHost
	default:
		e.Kind, e.hint = Refused, texts.other
	}
	return e
}
