// SPDX-License-Identifier: MPL-2.0

package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-databricks/internal/duration"
)

// Kind says what a failure means to the caller. Databricks' error codes decide it before the HTTP status does, since the
// same code comes with different statuses (Databricks REST reference, error codes).
type Kind int

const (
	// Refused is a request that Databricks turned down for a reason without a kind of its own, or that was not fit to be sent.
	Refused Kind = iota
	// NotFound is an object that does not exist. A path that does not exist is [Refused].
	NotFound
	// QuotaExceeded is a limit on the number of things, such as 600 tokens for a user in a workspace.
	QuotaExceeded
	// Unauthenticated is a refusal of our own credential.
	Unauthenticated
	// PermissionDenied is something that our own identity may not do.
	PermissionDenied
	// NetworkDenied is a workspace that does not admit the address or the network that the call came from, whatever its credential.
	NetworkDenied
	// NotInWorkspace is an identity, or a credential of another workspace, that may not enter this one.
	NotInWorkspace
	// ScopeMissing is a credential that is good, but limited to API scopes other than the one that the request needs. It says nothing about
	// the rights of its identity.
	ScopeMissing
	// Throttled means that Databricks still asked to slow down after the call's retries or its budget.
	Throttled
	// Unavailable means that Databricks can't be reached, fails, or gives an answer that can't be read.
	Unavailable
	// Timeout means that no answer came in time.
	Timeout
	// Canceled means that the caller gave up.
	Canceled
)

// String returns the kind as lower-case words.
func (k Kind) String() string {
	switch k {
	case Refused:
		return "refused"
	case NotFound:
		return "not found"
	case QuotaExceeded:
		return "quota exceeded"
	case Unauthenticated:
		return "unauthenticated"
	case PermissionDenied:
		return "permission denied"
	case NetworkDenied:
		return "network denied"
	case NotInWorkspace:
		return "not in workspace"
	case ScopeMissing:
		return "scope missing"
	case Throttled:
		return "throttled"
	case Unavailable:
		return "unavailable"
	case Timeout:
		return "timeout"
	case Canceled:
		return "canceled"
	default:
		return "unknown"
	}
}

// Outage reports whether the failure is one of the connection rather than of the one request.
func (k Kind) Outage() bool {
	return slices.Contains([]Kind{Unavailable, Timeout, Throttled, Unauthenticated, NotInWorkspace, NetworkDenied}, k)
}

// phrase is how an error of the kind begins when nothing more exact is known.
func (k Kind) phrase() string {
	switch k {
	case NotFound:
		return "Databricks does not know it"
	case QuotaExceeded, PermissionDenied, ScopeMissing, Refused:
		return "Databricks refused the request"
	case Unauthenticated:
		return "Databricks refused the credential of this connection"
	case NetworkDenied:
		return "Databricks does not admit calls from this network"
	case NotInWorkspace:
		return "Databricks does not let this identity into the workspace"
	case Throttled:
		return "Databricks is throttling requests"
	case Unavailable:
		return "Databricks is unavailable"
	case Timeout:
		return "Databricks did not answer in time"
	case Canceled:
		return "the caller gave up waiting for Databricks"
	default:
		return "the request failed"
	}
}

// Error is what every method of [Client] fails with. Nothing in it holds a secret.
type Error struct {
	// Op is the operation, such as "token/create". It is "oidc/token", "oidc/exchange" or "entra/token" when a call failed
	// because no access token could be fetched.
	Op string
	// Kind says what the failure means.
	Kind Kind
	// Status is the HTTP status of the last answer, 0 when there was none.
	Status int
	// ErrorCode is Databricks' error_code, or the error of an OAuth answer; "" when absent or numeric.
	ErrorCode string
	// Message is Databricks' message or our own, redacted, on one line, of 1 KiB at most.
	Message string
	// Issued is true when the request was refused with an access token that was issued for the config's credential, which is good, then.
	Issued bool
	// Field is the config field that is wrong, by its name in Vault, where the answer tells; else "".
	Field string
	// RequestID is Databricks' id of the request, "" when unknown.
	RequestID string
	// RetryAfter is how long Databricks asks to wait before the next request, 0 when it did not say.
	RetryAfter time.Duration
	// Unprocessed is true when the request certainly had no effect: it was never sent, or definitely refused. When false,
	// it may have had one.
	Unprocessed bool

	what      string // how the text begins, the kind's phrase when empty
	hint      string // what to do about it
	transient bool   // the same request may succeed later
	cause     error  // context.Canceled, context.DeadlineExceeded or nil
}

// Error says what happened to which operation and, where something can be done about it, what to do.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Op != "" {
		b.WriteString(e.Op + ": ")
	}
	what := cmp.Or(e.what, e.Kind.phrase())
	if e.Op == opEntraToken {
		what = strings.ReplaceAll(what, "Databricks", "Entra ID")
	}
	b.WriteString(what)
	if e.ErrorCode != "" {
		b.WriteString(": " + e.ErrorCode)
	}
	if e.Status != 0 {
		fmt.Fprintf(&b, " (HTTP %d)", e.Status)
	}
	if e.Message != "" {
		b.WriteString(": " + e.Message)
	}
	if hint := e.advice(); hint != "" {
		b.WriteString("; " + hint)
	}
	if e.RetryAfter > 0 {
		fmt.Fprintf(&b, "; try again in %s", duration.Text(max(e.RetryAfter.Round(time.Second), time.Second)))
	}
	if e.RequestID != "" {
		fmt.Fprintf(&b, " [request id %s]", e.RequestID)
	}
	return b.String()
}

// advice returns what to do about the error, "" when there is nothing to do.
func (e *Error) advice() string {
	switch {
	case e.Op == opEntraToken && (e.Kind == Unavailable || e.Kind == Timeout || e.hint == hintHost):
		return hintEntra
	case e.hint != "":
		return e.hint
	case e.Kind == Unauthenticated:
		return "check that the credential in the config exists and has not expired"
	case e.Kind == Unavailable && e.Status == 0:
		return hintUnreachable
	default:
		return ""
	}
}

// Unwrap returns [context.Canceled] or [context.DeadlineExceeded] when that is why the call ended, else nil. The SDK's
// errors are never exposed, since they can hold whole requests and answers.
func (e *Error) Unwrap() error { return e.cause }

// hide takes what the request carried in private out of the texts that came from elsewhere, before [Error.tidy] changes
// them. A code that we know stays: it is ours to show, even when the private value is a word of it.
func (e *Error) hide(private string) {
	e.Message = conceal(e.Message, private)
	if _, known := codeKinds[e.ErrorCode]; !known && conceal(e.ErrorCode, private) != e.ErrorCode {
		e.ErrorCode = ""
	}
	if conceal(e.RequestID, private) != e.RequestID {
		e.RequestID = ""
	}
}

// tidy makes the texts that came from elsewhere fit to be shown.
func (e *Error) tidy(secrets ...string) {
	e.Message = clean(e.Message, secrets...)
	e.ErrorCode = word(errorCodeText, e.ErrorCode, secrets...)
	e.RequestID = word(requestIDText, e.RequestID, secrets...)
}

const (
	hintUnreachable = "check host, the network between here and Databricks, and ca_cert"
	hintHost        = "check that host is the URL of the workspace itself"
	hintEntra       = "check azure_tenant_id, the network between here and Entra ID, and ca_cert"

	hintIPAccessList = "the address is not on the IP access list, which says nothing about the credential; let an admin add it to the list, or let Vault's traffic leave from an address that is on it"
	hintNetwork      = "an IP access list, a network policy of the account or private link keeps this network out, which says nothing about the credential; let an admin admit the address that Vault's traffic leaves from, or let Vault reach the workspace through its private link"
	hintNotInside    = "the credential was not found to be wrong; check that host is the workspace that it is for, and that its identity has been added to that workspace (on Azure, azure_workspace_resource_id lets in who has rights on the workspace's resource)"
	hintScopes       = "the credential in the config is good, but limited to API scopes, and these are not among them; connect with one that has them"
	hintIssued       = "an access token was issued, so the credential in the config is good; check that host is the workspace or account that it is for, and that the identity has been added there"
	hintAuthDown     = "if that lasts, the workspace does not take credentials of this kind, such as tokens of Entra ID; use another auth_type"
)

// FromEntra reports whether Entra ID, rather than Databricks, gave the error.
func (e *Error) FromEntra() bool { return e.Op == opEntraToken }

// AskedLifetime reports whether the request asked for the lifetime of what it was to create.
func (e *Error) AskedLifetime() bool {
	return e.Op == opTokenCreate || e.Op == opOBOCreate || e.Op == opOAuthSecretCreate
}

// notSent makes the error of a request that we do not send because something about it is wrong.
func notSent(op, format string, args ...any) *Error {
	return &Error{Op: op, Kind: Refused, Message: clean(fmt.Sprintf(format, args...)), Unprocessed: true, what: "the request was not sent"}
}

// unreadable makes the error of a 2xx answer that makes no sense. The request was most likely carried out.
func unreadable(op string, status int, reason, hint string) *Error {
	return &Error{Op: op, Kind: Unavailable, Status: status, Message: reason, what: "the answer of Databricks can't be read", hint: hint}
}

// ended makes the error of a call whose context ended. sent reports whether a request can have reached Databricks.
func ended(op string, cause error, sent bool) *Error {
	e := &Error{Op: op, Kind: Canceled, Unprocessed: !sent, cause: context.Canceled}
	if errors.Is(cause, context.DeadlineExceeded) {
		e.Kind, e.cause = Timeout, context.DeadlineExceeded
		e.hint = "check the network between here and Databricks, and the health of the workspace"
	}
	return e
}

// ofPrincipal makes a refusal of the credential that was made for a service principal speak of that: it says nothing of the connection's own.
// A refused credential becomes what and hint. Other errors, and nil, stay as they are.
func ofPrincipal(err error, what, hint string) error {
	var failure *Error
	if !errors.As(err, &failure) {
		return err
	}
	foreign := *failure
	switch {
	case failure.Kind == Unauthenticated:
		foreign.Kind, foreign.what, foreign.hint = Refused, what, hint
	case failure.Kind == NotInWorkspace:
		foreign.what, foreign.hint = "Databricks does not let the service principal into the workspace", "let an admin add it to the workspace"
	case failure.Kind == ScopeMissing:
		foreign.hint = "the access token of the service principal was asked for with these scopes, so a policy of the account may exclude this API"
	case failure.Kind == Unavailable && failure.hint == hintAuthDown, failure.hint == endpoints[opOIDCToken].other:
		foreign.hint = hintPrincipal
	default:
		return err
	}
	return &foreign
}

// hintPrincipal is what to do when the credential of a service principal is refused.
const hintPrincipal = "check that the service principal is active and may use this workspace"

// IsKind reports whether err is, or wraps, an *Error of one of the kinds.
func IsKind(err error, kinds ...Kind) bool {
	var remote *Error
	return errors.As(err, &remote) && slices.Contains(kinds, remote.Kind)
}

// IsGone reports whether err says that what the request was about does not exist at Databricks.
func IsGone(err error) bool { return IsKind(err, NotFound) }

// IsTurnedAway reports whether err says that Databricks did not do what was asked for, be it for now: it exists, or the request was to come later.
// An earlier attempt may have done it all the same.
func IsTurnedAway(err error) bool {
	var remote *Error
	return errors.As(err, &remote) && (IsTaken(err) || remote.Status == http.StatusTooManyRequests || remote.Status == http.StatusServiceUnavailable)
}
