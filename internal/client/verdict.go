// SPDX-License-Identifier: MPL-2.0

package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/databricks/databricks-sdk-go/apierr"
	"github.com/databricks/databricks-sdk-go/common"
)

const (
	// maxBody bounds an answer. The largest ones, lists of tokens, take less than 1 KiB a token.
	maxBody = 16 << 20
	// maxErrorBody bounds the body of a refusal that is still looked at for a message.
	maxErrorBody = 64 << 10
	// maxRetryAfter bounds a Retry-After header, against nonsense.
	maxRetryAfter = 24 * time.Hour
)

// reply is an answer read to its end.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// transientStatus has the statuses after which a retry may succeed.
var transientStatus = map[int]bool{
	http.StatusInternalServerError: true,
	http.StatusBadGateway:          true,
	http.StatusServiceUnavailable:  true,
	http.StatusGatewayTimeout:      true,
}

// judge returns the error that an answer means, nil when it is a success that can be read. Texts in the error are as Databricks
// sent them: the caller must clean them.
func judge(ca *call, req *http.Request, r *reply) *Error {
	var e *Error
	switch {
	case r.status >= 200 && r.status < 300:
		e = judgeSuccess(ca, r)
	case r.status >= 300 && r.status < 400:
		e = judgeRedirect(req, r)
	case ca.op == opOIDCToken, ca.op == opExchange, ca.op == opEntraToken:
		e = judgeOAuth(ca.op, req, r)
	default:
		e = judgeAPI(ca, req, r)
	}
	if e == nil {
		return nil
	}
	e.Op, e.Status = ca.op, r.status
	if id := cmp.Or(r.header.Get("X-Request-Id"), r.header.Get("X-Ms-Request-Id")); id != "" {
		e.RequestID = id
	}
	now, err := http.ParseTime(r.header.Get("Date")) // a date in the same answer is of the same clock
	if err != nil {
		now = time.Now()
	}
	if d, ok := retryAfter(r.header.Get("Retry-After"), now); ok {
		e.RetryAfter = d
	}
	switch {
	case e.Kind == Throttled:
		e.transient = true
	case e.Kind == Unavailable:
		e.transient = r.status >= 400 && r.status < 500 || transientStatus[r.status]
	default:
		e.Unprocessed = r.status >= 400 && r.status < 500 && r.status != http.StatusRequestTimeout && r.status != 499
	}
	return e
}

func judgeSuccess(ca *call, r *reply) *Error {
	body := bytes.TrimSpace(r.body)
	switch {
	case len(body) == 0 && !ca.result:
		return nil
	case len(body) == 0:
		return unreadable(ca.op, r.status, "it is empty", "")
	case body[0] == '<':
		return unreadable(ca.op, r.status, "it is a web page, such as a login form or a proxy's notice", hintHost)
	case !json.Valid(body):
		return unreadable(ca.op, r.status, "it is not valid JSON", "")
	case ca.result && body[0] != '{':
		return unreadable(ca.op, r.status, "it is not a JSON object", "")
	default:
		return nil
	}
}

// judgeRedirect refuses to follow: a redirect would carry the credential to where the config does not point.
func judgeRedirect(req *http.Request, r *reply) *Error {
	e := &Error{Kind: Refused, what: "Databricks redirected the request", hint: hintHost}
	to, err := req.URL.Parse(r.header.Get("Location"))
	if err != nil || r.header.Get("Location") == "" {
		e.Message = "it did not say where to"
		return e
	}
	e.Message = "to " + (&url.URL{Scheme: to.Scheme, Host: to.Host}).String()
	if strings.Contains(to.RawQuery, "private-link-validation-error") {
		e.Kind = NetworkDenied
		e.hint = "the workspace takes calls through its private link only; check that the network between here and there uses it"
	}
	return e
}

// codeKinds are the error codes with a meaning of their own (Databricks REST reference, error codes).
var codeKinds = map[string]Kind{
	"NOT_FOUND":                         NotFound,
	"RESOURCE_DOES_NOT_EXIST":           NotFound,
	"QUOTA_EXCEEDED":                    QuotaExceeded,
	"RESOURCE_LIMIT_EXCEEDED":           QuotaExceeded,
	"UNAUTHENTICATED":                   Unauthenticated,
	"CUSTOMER_UNAUTHORIZED":             Unauthenticated,
	"PERMISSION_DENIED":                 PermissionDenied,
	"RESOURCE_EXHAUSTED":                Throttled,
	"REQUEST_LIMIT_EXCEEDED":            Throttled,
	"TEMPORARILY_UNAVAILABLE":           Unavailable,
	"UNAVAILABLE":                       Unavailable,
	"SERVICE_UNDER_MAINTENANCE":         Unavailable,
	"WORKSPACE_TEMPORARILY_UNAVAILABLE": Unavailable,
	"DEADLINE_EXCEEDED":                 Unavailable,
	"INTERNAL_ERROR":                    Unavailable,
	"DATA_LOSS":                         Unavailable,
	"BAD_REQUEST":                       Refused,
	"INVALID_PARAMETER_VALUE":           Refused,
	"MALFORMED_REQUEST":                 Refused,
	"INVALID_STATE":                     Refused,
	"ALREADY_EXISTS":                    Refused,
	"RESOURCE_ALREADY_EXISTS":           Refused,
	"ENDPOINT_NOT_FOUND":                Refused,
	"FEATURE_DISABLED":                  Refused,
}

// judgeAPI reads the envelopes of the REST and SCIM APIs.
func judgeAPI(ca *call, req *http.Request, r *reply) *Error {
	e, numeric, enveloped := parseEnvelope(req, r)
	text := strings.ToLower(e.Message)
	kind, known := codeKinds[e.ErrorCode]
	if e.deniedEntry(r) {
		return e
	}
	scim := scimStatus(e.ErrorCode, r.status)
	switch {
	// SCIM answers 500 when it throttles, with the code in its text, and the token bucket has none at all.
	case strings.Contains(e.Message, "REQUEST_LIMIT_EXCEEDED"), strings.Contains(text, "token bucket limit has been exceeded"):
		e.Kind = Throttled
	case ca.op == opOAuthSecretCreate && tooManySecrets(text), strings.HasPrefix(ca.op, "scim/") && tooManyPrincipals(text):
		e.Kind = QuotaExceeded
	case strings.HasPrefix(ca.op, "scim/") && strings.Contains(text, "already exists"):
		e.Kind = Refused
	case ca.deletes && r.status == http.StatusBadRequest && strings.Contains(text, "does not exist") && names(ca.op, text):
		e.Kind = NotFound
	case ca.op == opScopeCreate && e.ErrorCode == "CUSTOMER_UNAUTHORIZED":
		// Here it is said of a reserved name, not of our credential (Databricks REST reference, create scope).
		e.Kind = Refused
	case known:
		e.Kind = kind
	case strings.HasPrefix(ca.op, "uc-secrets/") && slices.Contains(ucAbsent, e.ErrorCode):
		e.Kind = NotFound
	case scim == http.StatusNotFound,
		r.status == http.StatusNotFound && enveloped && e.ErrorCode == "" && (numeric && !preview(ca.op) || names(ca.op, text)):
		// Only Databricks knows that the object is gone: a gateway on the way there, a workspace that is not the one we mean, or one
		// without the API answers 404 as well.
		e.Kind = NotFound
	default:
		e.Kind = kindOfStatus(cmp.Or(scim, r.status), r, numeric, text)
	}
	// The whole workspace, or account, is not there: nothing is known of what the request was about.
	absent := e.Kind == NotFound && elsewhere.MatchString(text) && !names(ca.op, text)
	if absent {
		e.Kind = Refused
	}
	switch {
	case absent, r.status == http.StatusNotFound && e.Kind == Refused && (e.ErrorCode == "" || e.ErrorCode == "ENDPOINT_NOT_FOUND"):
		e.hint = hintHost
	case e.Kind == Unavailable && strings.Contains(text, "authentication is temporarily unavailable"):
		e.hint = hintAuthDown
	}
	return e
}

// denials are the texts by which Databricks refuses a good credential. It has no code for them: they come with the number 403, as a refused
// credential does, and as a plain text (answers that were recorded).
var denials = []struct {
	text string // in lower case
	kind Kind
	hint string
}{
	{"is blocked by databricks ip acl", NetworkDenied, hintIPAccessList},
	{"unauthorized network access to", NetworkDenied, hintNetwork},
	{"unauthorized access to org", NetworkDenied, hintNetwork},
	{"unauthorized access to workspace", NetworkDenied, hintNetwork},
	{"invalid access to org", NotInWorkspace, hintNotInside},
	{"required scopes: ", ScopeMissing, hintScopes},
}

// deniedEntry recognises the denials, and completes the error of one.
func (e *Error) deniedEntry(r *reply) bool {
	if r.status != http.StatusForbidden && r.status != http.StatusUnauthorized {
		return false
	}
	text := strings.ToLower(e.Message + "\n" + r.header.Get("X-Databricks-Reason-Phrase"))
	for _, denial := range denials {
		if strings.Contains(text, denial.text) {
			e.Kind, e.hint = denial.kind, denial.hint
			return true
		}
	}
	return false
}

// preview reports whether some workspaces have no API of the operation's yet.
func preview(op string) bool { return strings.HasPrefix(op, "uc-secrets/") }

// pathText matches the paths in a message. One that names a missing API has words in it, but speaks of nothing that is gone.
var pathText = regexp.MustCompile(`\S*/\S*`)

// names reports whether a message, in lower case, speaks of what the operation is about. Of a preview, it must say that it doesn't exist.
func names(op, text string) bool {
	text = pathText.ReplaceAllString(text, "")
	if preview(op) && !strings.Contains(text, "does not exist") {
		return false
	}
	nouns := []string{"token"}
	switch {
	case strings.HasPrefix(op, "secrets/"):
		nouns = []string{"secret", "scope", "acl", "principal"}
	case strings.HasPrefix(op, "uc-secrets/"):
		nouns = []string{"secret", "schema", "catalog"}
	case strings.HasPrefix(op, "scim/service-principals/"):
		nouns = []string{"service principal", "serviceprincipal"}
	case strings.HasPrefix(op, "oauth-secrets/"):
		// With its service principal, a secret is gone, too.
		nouns = []string{"secret", "service principal", "serviceprincipal"}
	}
	return slices.ContainsFunc(nouns, func(noun string) bool { return strings.Contains(text, noun) })
}

// elsewhere matches a message, in lower case, which says that there is no such workspace or account.
var elsewhere = regexp.MustCompile(`^(the |this |no |your )?(workspace|account|org|organization)\b|\b(find|load|locate|resolve) (the )?(workspace|account|org|organization)\b`)

// tooManySecrets reports whether a message, in lower case, is about the limit of five OAuth secrets for a service principal.
// Which code that comes with is not documented, and one that is likely, RESOURCE_EXHAUSTED, means throttling otherwise.
func tooManySecrets(text string) bool {
	return strings.Contains(text, "secrets") && limitText.MatchString(text) && !rateText.MatchString(text)
}

// tooManyPrincipals reports whether a message, in lower case, is about how many service principals there may be, which SCIM
// says in words.
func tooManyPrincipals(text string) bool {
	return strings.Contains(text, "quota_exceeded") || strings.Contains(text, "cannot have more than")
}

var (
	limitText = regexp.MustCompile(`\b(maximum|limit|quota|at most|more than|too many)\b`)
	rateText  = regexp.MustCompile(`\b(rate|requests?)\b`)
)

// scimStatus is the status that the envelope of an answer of the SCIM API names, which the SDK makes its code. It stands for the code that
// such answers haven't, so it counts rather than the status that the answer came with. It is 0 for another answer.
func scimStatus(code string, otherwise int) int {
	named, isSCIM := strings.CutPrefix(code, "SCIM_")
	if !isSCIM {
		return 0
	}
	if status, err := strconv.Atoi(named); err == nil && status >= 400 && status < 600 {
		return status
	}
	return otherwise
}

// kindOfStatus judges an answer whose code says nothing. A token that Databricks does not accept is a 403 with a numeric
// code, seen with an unknown one, or for one of Entra ID a text about its expiring within 30 seconds; another 403 in words
// is about permission.
func kindOfStatus(status int, r *reply, numeric bool, text string) Kind {
	switch {
	case status == http.StatusUnauthorized:
		return Unauthenticated
	case status == http.StatusForbidden:
		reason := strings.ToLower(r.header.Get("X-Databricks-Reason-Phrase"))
		if strings.Contains(text, "invalid access token") || strings.Contains(reason, "invalid access token") ||
			strings.Contains(text, "30 seconds") || numeric {
			return Unauthenticated
		}
		return PermissionDenied
	case status == http.StatusTooManyRequests:
		return Throttled
	case status == http.StatusRequestTimeout:
		return Timeout
	case status >= 500:
		return Unavailable
	default:
		return Refused
	}
}

// parseEnvelope reads what the SDK knows of error envelopes. numeric reports whether the error_code was a number, which
// counts as absent; enveloped reports whether the body was a JSON object at all.
func parseEnvelope(req *http.Request, r *reply) (e *Error, numeric, enveloped bool) {
	body := bytes.TrimSpace(r.body)
	if len(body) == 0 || len(body) > maxErrorBody {
		return &Error{Message: http.StatusText(r.status)}, false, false
	}
	answer := &http.Response{
		StatusCode: r.status,
		Status:     strconv.Itoa(r.status) + " " + http.StatusText(r.status),
		Header:     r.header,
		Request:    req,
	}
	var parsed *apierr.APIError
	err := apierr.GetAPIError(context.Background(), common.ResponseWrapper{
		Response:   answer,
		ReadCloser: io.NopCloser(bytes.NewReader(body)),
	})
	if !errors.As(err, &parsed) {
		return &Error{Message: http.StatusText(r.status)}, false, false
	}
	e = &Error{ErrorCode: parsed.ErrorCode, Message: parsed.Message}
	if info := parsed.ErrorDetails().RequestInfo; info != nil {
		e.RequestID = info.RequestID
	}
	if info := parsed.ErrorDetails().RetryInfo; info != nil {
		e.RetryAfter = min(max(info.RetryDelay, 0), maxRetryAfter)
	}
	switch body[0] {
	case '{':
		enveloped = json.Valid(body)
		if !enveloped || e.Message == string(body) {
			e.ErrorCode, e.Message = "", http.StatusText(r.status)
		}
		if e.ErrorCode == fmt.Sprint(nil) {
			// The SDK's way to write that there is none.
			e.ErrorCode = ""
		}
	case '<', '[':
		// The SDK takes the code of a page from its status, and its text from what is preformatted in it, if anything.
		e.ErrorCode = ""
		if e.Message == string(body) {
			e.Message = http.StatusText(r.status)
		}
	default:
		if e.ErrorCode == "UNKNOWN" {
			e.ErrorCode = ""
		}
	}
	if _, err := strconv.ParseFloat(e.ErrorCode, 64); err == nil {
		e.ErrorCode, numeric = "", true
	}
	return e, numeric, enveloped
}

// retryAfter reads a Retry-After header, which holds seconds or a date (RFC 9110, section 10.2.3).
func retryAfter(value string, now time.Time) (time.Duration, bool) {
	value = strings.TrimSpace(value)
	if value == "" {
		return 0, false
	}
	if seconds, err := strconv.ParseInt(value, 10, 64); err == nil {
		seconds = min(max(seconds, 0), int64(maxRetryAfter/time.Second))
		return time.Duration(seconds) * time.Second, true
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	return min(max(date.Sub(now), 0), maxRetryAfter), true
}
