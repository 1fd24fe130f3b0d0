// SPDX-License-Identifier: MPL-2.0

package client

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestSecretRedactsItself(t *testing.T) {
	t.Parallel()
	const text = "dapi-very-secret"
	s := Secret(text)
	holder := struct {
		S Secret
		P *Secret
		M map[string]Secret
	}{s, &s, map[string]Secret{"k": s}}
	encoded, err := json.Marshal(holder)
	require.NoError(t, err)
	plain, err := s.MarshalText()
	require.NoError(t, err)
	shown := []string{s.String(), s.GoString(), string(encoded), string(plain)}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%10.3s"} {
		shown = append(shown, fmt.Sprintf(verb, s), fmt.Sprintf(verb, &s), fmt.Sprintf(verb, holder))
	}
	for _, text := range shown {
		require.NotContains(t, text, "secret")
		require.NotContains(t, text, fmt.Sprintf("%x", "very"))
	}
	require.Equal(t, "[redacted]", s.String())
	require.Equal(t, text, s.Reveal())
	require.Equal(t, "", fmt.Sprint(Secret("")))
	encoded, err = json.Marshal(Secret(""))
	require.NoError(t, err)
	require.Equal(t, `""`, string(encoded))
}

// verdict returns what becomes of an answer to a delete, as a caller sees it.
func verdict(t *testing.T, status int, body string, headers ...string) *Error {
	s := newServer(t, answer(status, body, headers...))
	cfg := patConfig(s.URL)
	cfg.MaxRetries = 0
	return failureOf(t, newClient(t, cfg).DeleteToken(t.Context(), mintedID))
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	table := []struct {
		name   string
		status int
		body   string
		header string
		kind   Kind
		code   string
		text   string
	}{
		{"unknown token", 404, envelope("RESOURCE_DOES_NOT_EXIST", "Token x does not exist"), "", NotFound, "RESOURCE_DOES_NOT_EXIST", "Databricks does not know it"},
		{"unknown token, newer", 404, envelope("NOT_FOUND", "no"), "", NotFound, "NOT_FOUND", ""},
		{"unknown token in words", 400, envelope("INVALID_PARAMETER_VALUE", "Token x does not exist"), "", NotFound, "INVALID_PARAMETER_VALUE", ""},
		{"absent with another status", 400, envelope("RESOURCE_DOES_NOT_EXIST", "no"), "", NotFound, "RESOURCE_DOES_NOT_EXIST", ""},
		{"no such workspace", 404, envelope("NOT_FOUND", "Workspace 123 does not exist."), "", Refused, "NOT_FOUND", "check that host"},
		{"no such account", 404, envelope("RESOURCE_DOES_NOT_EXIST", "Account x is not served by this host."), "", Refused, "RESOURCE_DOES_NOT_EXIST", "check that host"},
		{"no workspace to go to", 404, `{"error_code":404,"message":"Unable to find workspace 123"}`, "", Refused, "", "check that host"},
		{"a token of a workspace", 404, envelope("NOT_FOUND", "Token x does not exist in workspace 123"), "", NotFound, "NOT_FOUND", ""},
		{"absent in SCIM", 404, `{"detail":"User 1 not found.","status":"404"}`, "", NotFound, "SCIM_404", "User 1 not found."},
		{"absent in SCIM, with the status of a refusal", 400, `{"detail":"User 1 not found.","status":"404"}`, "", NotFound, "SCIM_404", "User 1 not found."},
		{"not allowed in SCIM, with the status of absence", 404, `{"detail":"/x is only accessible by admins","status":"403"}`, "", PermissionDenied, "SCIM_403", "only accessible by admins"},
		{"invalid in SCIM, with the status of absence", 404, `{"detail":"no","status":"400"}`, "", Refused, "SCIM_400", ""},
		{"absent in SCIM, without a status", 404, `{"schemas":["urn:ietf:params:scim:api:messages:2.0:Error"],"detail":"no"}`, "", NotFound, "SCIM_", "no"},
		{"absent with a numeric code", 404, `{"error_code":404,"message":"no token"}`, "", NotFound, "", "no token"},
		{"unknown path", 404, envelope("ENDPOINT_NOT_FOUND", "No API found"), "", Refused, "ENDPOINT_NOT_FOUND", "check that host"},
		{"feature off", 404, envelope("FEATURE_DISABLED", "PATs are disabled"), "", Refused, "FEATURE_DISABLED", ""},
		{"404 of a proxy", 404, "<html><pre>Not Found</pre></html>", "", Refused, "", "Not Found; check that host"},
		{"404 of a proxy, plain", 404, "404 page not found", "", Refused, "", "404 page not found"},
		{"404 of nobody", 404, "", "", Refused, "", "Not Found"},
		{"quota", 400, envelope("QUOTA_EXCEEDED", "User has 600 tokens"), "", QuotaExceeded, "QUOTA_EXCEEDED", "token/delete: Databricks refused the request: QUOTA_EXCEEDED (HTTP 400): User has 600 tokens"},
		{"quota as 429", 429, envelope("RESOURCE_LIMIT_EXCEEDED", "no"), "", QuotaExceeded, "RESOURCE_LIMIT_EXCEEDED", ""},
		{"bad credential", 403, `{"error_code":403,"message":"Invalid access token. [ReqId: a]"}`, "", Unauthenticated, "", "check that the credential"},
		{"bad credential by header", 403, `{"message":"no"}`, "Invalid access token.", Unauthenticated, "", ""},
		{"bad credential as a page", 403, "<html><pre> Invalid access token. </pre></html>", "", Unauthenticated, "", "Invalid access token"},
		{"scope missing", 403, `{"error_code":403,"message":"Provided access token does not have required scopes: secrets [ReqId: a]"}`, "", ScopeMissing, "",
			"Databricks refused the request (HTTP 403): Provided access token does not have required scopes: secrets [ReqId: a]; the credential in the config is good, but limited to API scopes"},
		{"scope missing, of an OAuth token", 403, `{"error_code":403,"message":"Provided OAuth token does not have required scopes: authentication"}`, "", ScopeMissing, "", "limited to API scopes"},
		{"scope missing, in other words", 403, envelope("PERMISSION_DENIED", "Invalid scope, required scopes: jobs"), "", ScopeMissing, "PERMISSION_DENIED", "limited to API scopes"},
		{"numeric 403", 403, `{"error_code":403,"message":"no"}`, "", Unauthenticated, "", ""},
		{"feature off says nothing about the host", 404, envelope("FEATURE_DISABLED", "PATs are disabled"), "", Refused, "FEATURE_DISABLED", "PATs are disabled [request id"},
		{"broken, with the status of a refusal", 400, envelope("INTERNAL_ERROR", "no"), "", Unavailable, "INTERNAL_ERROR", "Databricks is unavailable"},
		{"authentication down for good", 503, envelope("TEMPORARILY_UNAVAILABLE", "Authentication is temporarily unavailable"), "", Unavailable, "TEMPORARILY_UNAVAILABLE", "use another auth_type"},
		{"address blocked", 403, `{"error_code":403,"message":"Source IP address: 203.0.113.7 is blocked by Databricks IP ACL for workspace: 1 [ReqId: a]"}`, "", NetworkDenied, "",
			"Databricks does not admit calls from this network (HTTP 403): Source IP address: 203.0.113.7 is blocked by Databricks IP ACL for workspace: 1 [ReqId: a]; the address is not on the IP access list"},
		{"address blocked, with a code", 403, envelope("PERMISSION_DENIED", "Source IP address: ::1 is blocked by Databricks IP ACL for workspace: 1"), "", NetworkDenied, "PERMISSION_DENIED", "IP access list"},
		{"address blocked, in a header", 403, "", "Source IP address: 203.0.113.7 is blocked by Databricks IP ACL for workspace: 1", NetworkDenied, "", "IP access list"},
		{"network blocked", 403, `{"error_code":"403","message":"Unauthorized network access to workspace: 1"}`, "", NetworkDenied, "", "network policy"},
		{"network blocked, as a text", 403, "Unauthorized network access to workspace: 1", "", NetworkDenied, "", "network policy"},
		{"network blocked, as a page", 403, "<html><pre> Unauthorized network access to workspace: 1 </pre></html>", "", NetworkDenied, "", "network policy"},
		{"network not allowed", 403, `{"error_code":403,"message":"Unauthorized access to Org: 1"}`, "", NetworkDenied, "", "private link"},
		{"not in the workspace", 403, `{"error_code":403,"message":"Invalid access to Org: 1"}`, "", NotInWorkspace, "", "has been added to that workspace"},
		{"a name that sounds like it", 400, envelope("INVALID_PARAMETER_VALUE", "no scope 'invalid access to org'"), "", Refused, "INVALID_PARAMETER_VALUE", ""},
		{"no credential", 401, `{"error_code":401,"message":"Credential was not sent"}`, "", Unauthenticated, "", ""},
		{"no credential, by code", 400, envelope("UNAUTHENTICATED", "no"), "", Unauthenticated, "UNAUTHENTICATED", ""},
		{"not allowed", 403, envelope("PERMISSION_DENIED", "User does not have permission to use tokens."), "", PermissionDenied, "PERMISSION_DENIED", "permission to use tokens"},
		{"not allowed, no code", 403, `{"message":"is only accessible by admins"}`, "", PermissionDenied, "", ""},
		{"throttled", 429, envelope("RESOURCE_EXHAUSTED", "no"), "", Throttled, "RESOURCE_EXHAUSTED", "throttling"},
		{"throttled by a bucket", 500, `{"detail":"GetUserPermissionsRequest RPC token bucket limit has been exceeded","status":"500"}`, "", Throttled, "SCIM_500", ""},
		{"broken", 500, envelope("INTERNAL_ERROR", "no"), "", Unavailable, "INTERNAL_ERROR", "Databricks is unavailable: INTERNAL_ERROR (HTTP 500): no"},
		{"down", 400, envelope("TEMPORARILY_UNAVAILABLE", "no"), "", Unavailable, "TEMPORARILY_UNAVAILABLE", ""},
		{"exists, with a strange status", 500, envelope("RESOURCE_ALREADY_EXISTS", "no"), "", Refused, "RESOURCE_ALREADY_EXISTS", ""},
		{"absent without a code", 404, `{"message":"Token x was not found"}`, "", NotFound, "", "Token x"},
		{"absent without a code or its name", 404, `{"message":"no route"}`, "", Refused, "", "check that host"},
		{"old form", 400, `{"error":"ancient"}`, "", Refused, "", "ancient"},
		{"text form", 400, "INVALID_STATE: not now", "", Refused, "INVALID_STATE", "not now"},
		{"teapot", 418, "short and stout", "", Refused, "", "short and stout"},
		{"unparsable object", 400, `{"token_value":"x`, "", Refused, "", "Bad Request"},
		{"object of another kind", 400, `{"error":{"a":1}}`, "", Refused, "", "Bad Request"},
		{"array", 400, `["x"]`, "", Refused, "", "Bad Request"},
		{"code of no form", 400, `{"error_code":"two words","message":"m"}`, "", Refused, "", ": m"},
		{"code that is a token", 400, `{"error_code":"dapi0123456789","message":"m"}`, "", Refused, "", ": m"},
		{"giant", 400, `{"message":"` + strings.Repeat("x", maxErrorBody) + `"}`, "", Refused, "", "Bad Request"},
	}
	for _, row := range table {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			e := verdict(t, row.status, row.body, "X-Databricks-Reason-Phrase", row.header, "X-Request-Id", "abc-1")
			require.Equal(t, row.kind.String(), e.Kind.String(), e.Error())
			require.Equal(t, row.code, e.ErrorCode)
			require.Equal(t, row.status, e.Status)
			require.Contains(t, e.Error(), row.text)
			require.True(t, strings.HasSuffix(e.Error(), " [request id abc-1]"), e.Error())
			definite := row.status >= 400 && row.status < 500 && row.kind != Throttled && row.kind != Unavailable
			require.Equal(t, definite, e.Unprocessed)
			require.NoError(t, e.Unwrap())
		})
	}
}

func TestOnlyDeletesFindAbsenceInWords(t *testing.T) {
	t.Parallel()
	s := newServer(t, answer(400, envelope("INVALID_PARAMETER_VALUE", "Scope does not exist")))
	_, err := newClient(t, patConfig(s.URL)).CreateToken(t.Context(), aMinute)
	require.Equal(t, Refused, failureOf(t, err).Kind)
}

func TestRequestIDFromDetails(t *testing.T) {
	t.Parallel()
	body := `{"error_code":"BAD_REQUEST","message":"m","details":[{"@type":"type.googleapis.com/google.rpc.RequestInfo","request_id":"from-details"}]}`
	require.Equal(t, "from-details", verdict(t, 400, body).RequestID)
	require.Equal(t, "from-header", verdict(t, 400, body, "X-Request-Id", "from-header").RequestID)
	require.Empty(t, verdict(t, 400, "", "X-Request-Id", "two words").RequestID)
}

func TestMessagesAreScrubbed(t *testing.T) {
	t.Parallel()
	jwt := "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
	message := "a dapi99999999aaaaaaaa-2 b dose1234567890abcdef c " + jwt + " d Bearer abc.def/ghi== e Basic operation f " +
		testToken + " g //user:hunter2@proxy h\n\ti\x00j\u202ek"
	e := verdict(t, 400, envelope("BAD_REQUEST", message))
	require.Equal(t, "a [redacted] b [redacted] c [redacted] d [redacted] e Basic operation f [redacted] g //[redacted]@proxy h i j k", e.Message)

	e = verdict(t, 400, envelope("BAD_REQUEST", strings.Repeat("é", 2000)+testToken))
	require.LessOrEqual(t, len(e.Message), maxMessage)
	require.True(t, utf8.ValidString(e.Message))
	require.True(t, strings.HasSuffix(e.Message, "…"))

	// Literal secrets go whatever they look like, in the form they have in URLs and forms, too.
	require.Equal(t, "x [redacted] [redacted]", clean("x s3cr&t s3cr%26t", "s3cr&t", ""))
}

func TestErrorTexts(t *testing.T) {
	t.Parallel()
	kinds := []Kind{Refused, NotFound, QuotaExceeded, Unauthenticated, PermissionDenied, NetworkDenied, NotInWorkspace, ScopeMissing, Throttled, Unavailable, Timeout, Canceled, Kind(99)}
	seen := map[string]bool{}
	for _, kind := range kinds {
		require.False(t, seen[kind.String()])
		seen[kind.String()] = true
		require.Equal(t, strings.ToLower(kind.String()), kind.String())
		text := (&Error{Op: "token/create", Kind: kind}).Error()
		require.True(t, strings.HasPrefix(text, "token/create: "), text)
		require.Greater(t, len(text), len("token/create: "))
	}
	require.Equal(t, "Databricks is throttling requests (HTTP 429); try again in 1s",
		(&Error{Kind: Throttled, Status: 429, RetryAfter: time.Millisecond}).Error())
	require.True(t, strings.HasSuffix((&Error{Kind: Throttled, RetryAfter: time.Hour}).Error(), "; try again in 1h"))
	require.Contains(t, (&Error{Kind: Unavailable}).Error(), hintUnreachable)
}

func TestRetryAfterForms(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"0":                             0,
		" 5 ":                           5 * time.Second,
		"-5":                            0,
		"99999999999999":                maxRetryAfter,
		"Fri, 02 Jan 2026 03:04:15 GMT": 10 * time.Second,
		"Fri, 02 Jan 2026 03:04:00 GMT": 0,
		"Fri, 02 Jan 2099 03:04:00 GMT": maxRetryAfter,
	} {
		got, ok := retryAfter(value, now)
		require.True(t, ok, value)
		require.Equal(t, want, got, value)
	}
	for _, value := range []string{"", "soon", "1.5", "99999999999999999999"} {
		_, ok := retryAfter(value, now)
		require.False(t, ok, value)
	}
}

func FuzzErrors(f *testing.F) {
	f.Add(400, "", envelope("BAD_REQUEST", "m"), "5", "abc")
	f.Add(403, "token/delete", `{"error_code":403,"message":"Invalid access token."}`, "", "")
	f.Add(500, "scim/me", `{"detail":"null","status":"500"}`, "x", "y")
	f.Add(401, opOIDCToken, `{"error":"invalid_client","error_description":"d"}`, "", "")
	f.Add(400, opExchange, `{"error":"invalid_grant","error_description":"d"}`, "", "")
	f.Add(401, opEntraToken, `{"error":"invalid_client","error_description":"AADSTS7000215","error_codes":[7000215]}`, "", "")
	f.Add(400, opEntraToken, `{"error":"unauthorized_client","error_description":"AADSTS700016: no app"}`, "", "")
	f.Add(403, opOIDCToken, `{"error_code":403,"message":"Invalid access to Org: 1"}`, "", "")
	f.Add(404, opSPDelete, `{"message":"Service principal 1 does not exist"}`, "", "")
	f.Add(429, opOAuthSecretCreate, envelope("RESOURCE_EXHAUSTED", "too many secrets"), "", "")
	f.Add(409, opSPCreate, `{"detail":"already exists","status":"409"}`, "", "")
	f.Add(302, "x", "<html>", "", "")
	f.Add(200, "x", "<pre>a</pre>", "", "")
	f.Add(404, "x", "CODE: text", "Fri, 02 Jan 2026 03:04:15 GMT", "")
	const secret = "s3cret-Value/+="
	f.Fuzz(func(t *testing.T, status int, op, body, after, id string) {
		body = strings.ReplaceAll(body, "m", secret)
		ca := &call{op: op, result: len(body)%2 == 0, deletes: len(op)%2 == 0}
		req := &http.Request{Method: http.MethodPost, URL: &url.URL{Scheme: "https", Host: "dbc-1.test", Path: "/api/2.0/token/create"}}
		header := http.Header{"Retry-After": {after}, "X-Request-Id": {id}, "Location": {body}}
		e := judge(ca, req, &reply{status: status, header: header, body: []byte(body)})
		if status >= 200 && status < 300 {
			if e != nil {
				require.False(t, e.Unprocessed)
				require.False(t, e.transient)
			}
			return
		}
		require.NotNil(t, e)
		e.tidy(secret)
		e.Op = "op"
		text := e.Error()
		require.NotContains(t, text, secret)
		require.LessOrEqual(t, len(e.Message), maxMessage)
		require.True(t, utf8.ValidString(text))
		require.False(t, strings.ContainsFunc(text, unicode.IsControl), "%q", text)
		require.Contains(t, text, fmt.Sprintf("(HTTP %d)", status))
		require.GreaterOrEqual(t, e.RetryAfter, time.Duration(0))
		require.LessOrEqual(t, e.RetryAfter, maxRetryAfter)
		if status >= 500 || e.Kind == Throttled {
			require.False(t, e.Unprocessed)
		}
	})
}
