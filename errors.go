// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
)

// fieldError is an invalid field of a request. The reason says what to send instead. Clients get it as a 400.
type fieldError struct {
	field  string
	reason string
}

func (e *fieldError) Error() string { return e.field + ": " + e.reason }

// badField returns a fieldError. The reason continues the field's name and a colon.
func badField(field, format string, args ...any) error {
	return &fieldError{field: field, reason: fmt.Sprintf(format, args...)}
}

// errNotConfigured is the error of a request that needs a connection on a mount that has none.
var errNotConfigured = &fieldError{field: "config", reason: "this mount has no connection yet; write host and credentials to its config path first, for example: vault write databricks/config host=https://… token=…"}

// answer maps an error to the HTTP status for Vault's clients. Invalid requests and refusals by Databricks are 400, never 403,
// which clients would attribute to their own Vault token. Throttling is 429, an unreachable or failing Databricks is 502, and a
// time-out is 504. Coded errors keep their code and are made the outermost, since wrapped ones lose their type on the way to
// Vault.
func answer(resp *logical.Response, err error) (*logical.Response, error) {
	if err == nil {
		return resp, nil
	}
	var mistake *fieldError
	if errors.As(err, &mistake) {
		return logical.ErrorResponse(vaultSaid(err)), nil
	}
	var remote *client.Error
	if !errors.As(err, &remote) {
		var coded logical.HTTPCodedError
		if errors.As(err, &coded) {
			return nil, logical.CodedError(coded.Code(), vaultSaid(err))
		}
		if errors.Is(err, context.DeadlineExceeded) {
			return nil, logical.CodedError(http.StatusGatewayTimeout, err.Error())
		}
		return resp, err
	}
	switch remote.Kind {
	case client.Throttled:
		return nil, logical.CodedError(http.StatusTooManyRequests, err.Error())
	case client.Timeout:
		return nil, logical.CodedError(http.StatusGatewayTimeout, err.Error())
	case client.Unavailable, client.Canceled:
		return nil, logical.CodedError(http.StatusBadGateway, err.Error())
	default:
		return logical.ErrorResponse(err.Error()), nil
	}
}

// vaultSaid returns the text of an error without the form in which errors of Vault's come over gRPC.
func vaultSaid(err error) string { return overGRPC.ReplaceAllString(err.Error(), "") }

var overGRPC = regexp.MustCompile(`rpc error: code = \w+ desc = `)

// answerLease is answer for the renewal or revocation of a lease. There Vault shows an error response as Go prints the struct, so whatever
// went wrong is an error. Vault answers its own client with a 400 for all of them, and repeats a revocation.
func answerLease(resp *logical.Response, err error) (*logical.Response, error) {
	if resp, err = answer(resp, err); err == nil && resp.IsError() {
		return nil, logical.CodedError(http.StatusBadRequest, resp.Error().Error())
	}
	return resp, err
}

// callersFields are the caller's even where the body of the request lacks them: they are in the path, or missing.
var callersFields = []string{keyRole, keyName, keyDeliverScope, keyDeliverKey, keyDeliverUC}

// isCallersMistake reports whether the caller of a path is to blame for the error, and neither the mount's state nor Databricks. A request
// that another node is to carry out counts, too.
func isCallersMistake(req *logical.Request, err error) bool {
	var mistake *fieldError
	var remote *client.Error
	var coded logical.HTTPCodedError
	switch {
	case errors.As(err, &remote):
		return false
	case errors.As(err, &mistake):
		_, sent := req.Data[mistake.field]
		return sent || slices.Contains(callersFields, mistake.field)
	case errors.As(err, &coded):
		return coded.Code() < http.StatusInternalServerError
	}
	return slices.ContainsFunc([]error{logical.ErrReadOnly, logical.ErrUnsupportedPath, logical.ErrUnsupportedOperation, logical.ErrInvalidRequest},
		func(known error) bool { return errors.Is(err, known) })
}

// hasCode reports whether Databricks answered with this error_code.
func hasCode(err error, code string) bool {
	var remote *client.Error
	return errors.As(err, &remote) && remote.ErrorCode == code
}

// hasResponse reports whether Databricks answered the request that failed, so that whatever effect it had has happened by now.
func hasResponse(err error) bool {
	var remote *client.Error
	return errors.As(err, &remote) && remote.Status != 0
}

// reasonOf returns what is the same in all errors that have one cause. The texts of errors have request ids, ports, ids and durations in
// them.
func reasonOf(err error) string {
	var remote *client.Error
	if errors.As(err, &remote) {
		return fmt.Sprint(remote.Op, " ", remote.Kind, " ", remote.Status, " ", remote.ErrorCode)
	}
	return digits.ReplaceAllString(withoutRequestIDs(err.Error()), "#")
}

var digits = regexp.MustCompile(`[0-9]+`)

// sameReason reports whether the texts of two errors differ in no more than the ids of requests and the ports of addresses.
func sameReason(a, b string) bool {
	return addressPort.ReplaceAllString(withoutRequestIDs(a), "$1") == addressPort.ReplaceAllString(withoutRequestIDs(b), "$1")
}

// addressPort matches the address of a connection. The local port differs each time.
var addressPort = regexp.MustCompile(`((?:[0-9]{1,3}\.){3}[0-9]{1,3}|\[[0-9a-fA-F:.%a-z]+\]):[0-9]+`)

// withoutRequestIDs removes what errors have of the ids of requests, which differ where the reason is the same.
func withoutRequestIDs(text string) string { return requestID.ReplaceAllString(text, "") }

var requestID = regexp.MustCompile(` \[request id [^\]]*\]`)
