// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
)

// reply is an answer that has not been sent yet.
type reply struct {
	status int
	header http.Header
	body   []byte
	cut    func(http.ResponseWriter) // if not nil, ends the connection instead of answering
}

// jsonReply sends nil as {}.
func jsonReply(r *request, status int, value any) *reply {
	contentType := "application/json"
	if underSCIM(r) {
		contentType = "application/scim+json"
	}
	if value == nil {
		value = struct{}{}
	}
	body, err := json.Marshal(value)
	if err != nil {
		panic(err) // handlers return plain values only
	}
	return &reply{status: status, header: http.Header{"Content-Type": {contentType}}, body: body}
}

func underSCIM(r *request) bool { return strings.Contains(r.URL.Path, "/scim/") }

func underOIDC(r *request) bool { return strings.HasPrefix(r.URL.Path, "/oidc/") }

// refusal is an error answer. Its envelope follows from the path that was asked
// for, unless it comes from the gateway, which uses the standard one everywhere.
type refusal struct {
	status  int
	code    string
	message string
	gateway bool
	header  http.Header
}

func refuse(status int, code, message string) *refusal {
	return &refusal{status: status, code: code, message: message, header: http.Header{}}
}

// refuseByGateway refuses before any API is reached.
func refuseByGateway(status int, code, message string) *refusal {
	refused := refuse(status, code, message)
	refused.gateway = true
	return refused
}

// reply puts the refusal into its envelope: RFC 6749 under /oidc/, SCIM
// (RFC 7644) under /scim/, Databricks' own elsewhere. A numeric code, as in
// answers about credentials, is sent as a number.
func (f *refusal) reply(r *request) *reply {
	var envelope map[string]any
	switch {
	case underOIDC(r):
		envelope = map[string]any{"error": f.code, "error_description": f.message}
	case underSCIM(r) && !f.gateway:
		envelope = map[string]any{
			"schemas": []string{"urn:ietf:params:scim:api:messages:2.0:Error"},
			"detail":  f.code + ": " + f.message,
			"status":  strconv.Itoa(f.status),
		}
	default:
		var code any = f.code
		if number, err := strconv.Atoi(f.code); err == nil {
			code = number
		}
		envelope = map[string]any{"error_code": code, "message": f.message}
	}
	re := jsonReply(r, f.status, envelope)
	if f.gateway {
		re.header.Set("Content-Type", "application/json")
	}
	for name, values := range f.header {
		re.header[name] = values
	}
	return re
}
