// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"encoding/json"
	"maps"
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

// underOIDC reports whether a path is one of OAuth, Microsoft Entra ID's included.
func underOIDC(r *request) bool {
	return strings.HasPrefix(r.URL.Path, "/oidc/") || strings.HasSuffix(r.URL.Path, "/oauth2/token")
}

// refusal is an error answer. Its envelope follows from the path that was asked
// for, unless it comes from the gateway, which uses the standard one everywhere.
type refusal struct {
	status   int
	code     string
	message  string
	scimType string // under /scim/ only
	gateway  bool
	header   http.Header
	extra    map[string]any // further members of the envelope
}

func refuse(status int, code, message string) *refusal {
	return &refusal{status: status, code: code, message: message, header: http.Header{}}
}

// refuseSCIM refuses with a text that carries no code of Databricks. The type is
// one of RFC 7644, section 3.12, or empty.
func refuseSCIM(status int, scimType, detail string) *refusal {
	return &refusal{status: status, message: detail, scimType: scimType, header: http.Header{}}
}

// refuseByGateway refuses before any API is reached.
func refuseByGateway(status int, code, message string) *refusal {
	refused := refuse(status, code, message)
	refused.gateway = true
	return refused
}

// WithStatuses sends refusals with other statuses than their codes go by, such as
// RESOURCE_DOES_NOT_EXIST with 400 or RESOURCE_ALREADY_EXISTS with 409, which
// services of Databricks have been seen to do. Refusals of the SCIM API, which
// have no code, go by "SCIM_" and the status that stays in their envelope, as the
// SDKs name them: SCIM_404.
func WithStatuses(byCode map[string]int) Option {
	return func(s *settings) { s.statuses = byCode }
}

// reply puts the refusal into its envelope: RFC 6749 under /oidc/, SCIM
// (RFC 7644) under /scim/, Databricks' own elsewhere. A numeric code, as in
// answers about credentials, is sent as a number.
func (f *refusal) reply(r *request) *reply {
	var envelope map[string]any
	status, code := f.status, f.code
	switch {
	case underOIDC(r) && !f.gateway:
		envelope = map[string]any{"error": f.code, "error_description": f.message}
	case underSCIM(r) && !f.gateway:
		code = "SCIM_" + strconv.Itoa(f.status)
		envelope = map[string]any{
			"schemas": []string{"urn:ietf:params:scim:api:messages:2.0:Error"},
			"detail":  f.message,
			"status":  strconv.Itoa(f.status),
		}
		if f.code != "" {
			envelope["detail"] = f.code + ": " + f.message
		}
		if f.scimType != "" {
			envelope["scimType"] = f.scimType
		}
	default:
		var code any = f.code
		if number, err := strconv.Atoi(f.code); err == nil {
			code = number
		}
		envelope = map[string]any{"error_code": code, "message": f.message}
	}
	maps.Copy(envelope, f.extra)
	if other := r.statuses[code]; other != 0 {
		status = other
	}
	re := jsonReply(r, status, envelope)
	if f.gateway {
		re.header.Set("Content-Type", "application/json")
	}
	for name, values := range f.header {
		re.header[name] = values
	}
	return re
}
