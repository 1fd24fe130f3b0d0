// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// post sends what the SDK's methods send, on the same transport, for the calls that each mint and each revocation make: the SDK walks over every
// answer by reflection, for the sake of types that these don't have, which costs more than all the rest of a call. sent goes into the body as
// JSON; a nil result is for an answer of no interest.
func (c *Client) post(ctx context.Context, path string, sent, result any) error {
	body, err := json.Marshal(sent)
	if err != nil {
		return err
	}
	scheme, host, _ := strings.Cut(c.transport.origin, "://")
	req := (&http.Request{
		Method: http.MethodPost, URL: &url.URL{Scheme: scheme, Host: host, Path: path}, Header: http.Header{"Accept": asJSON, "Content-Type": asJSON},
	}).WithContext(ctx)
	if c.sdk.Config.WorkspaceID != "" {
		req.Header.Set("X-Databricks-Workspace-Id", c.sdk.Config.WorkspaceID)
	}
	answer, err := c.transport.send(req, body)
	if err != nil || result == nil {
		return err
	}
	return json.Unmarshal(answer.body, result)
}

var asJSON = []string{"application/json"}

// wholeNumber is an int64 that may come as a string: Protocol Buffers' JSON writes them so, and the SDK takes both.
type wholeNumber int64

// UnmarshalJSON decodes a number, a string with one, or null.
func (n *wholeNumber) UnmarshalJSON(text []byte) error {
	if string(text) == "null" {
		return nil
	}
	number, err := strconv.ParseInt(strings.Trim(string(text), `"`), 10, 64)
	*n = wholeNumber(number)
	return err
}

// createToken and createdToken are the request and the answer of the Token API's create.
type createToken struct {
	Comment         string   `json:"comment,omitempty"`
	LifetimeSeconds int64    `json:"lifetime_seconds"`
	Scopes          []string `json:"scopes,omitempty"`
}

type createdToken struct {
	TokenValue string `json:"token_value"`
	TokenInfo  *struct {
		TokenID      string      `json:"token_id"`
		Comment      string      `json:"comment"`
		CreationTime wholeNumber `json:"creation_time"`
		ExpiryTime   wholeNumber `json:"expiry_time"`
		Scopes       []string    `json:"scopes"`
	} `json:"token_info"`
}

// deleteToken is the request of the Token API's delete.
type deleteToken struct {
	TokenID string `json:"token_id"`
}
