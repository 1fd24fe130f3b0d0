// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"errors"
	"regexp"
	"time"

	"github.com/databricks/databricks-sdk-go/service/settings"
)

// TokenInfo is what Databricks reports about a personal access token, never its value.
type TokenInfo struct {
	TokenID      string
	Comment      string
	CreationTime time.Time // UTC, to the millisecond
	ExpiryTime   time.Time // UTC, to the millisecond; zero for a token that never expires
	Scopes       []string  // API scopes; empty for what Databricks defaults to

	// The rest comes from the token management API only, tokens on behalf of a service principal included.

	OwnerID           int64     // numeric id of the user or service principal that the token acts for
	CreatedByID       int64     // numeric id of who made it
	CreatedByUsername string    // user name, or application id, of who made it
	LastUsedDay       time.Time // UTC, to the day; zero for never used
}

// CreateTokenRequest says which token to make for the identity of the connection.
type CreateTokenRequest struct {
	Comment  string
	Lifetime time.Duration // positive, in whole seconds. Databricks refuses more than the workspace's maximum
	Scopes   []string      // API scopes, empty for what Databricks defaults to
}

// CreatedToken is a token that was just made, with its value, which Databricks shows this one time.
type CreatedToken struct {
	Value Secret
	Info  TokenInfo
	// Retried is true when an earlier attempt was answered with 429 or 503. It was most likely not processed, but not
	// certainly, so a second token with the same comment may exist.
	Retried bool
}

var errIncomplete = errors.New("the answer lacks what was asked for")

// CreateToken makes a personal access token (Databricks REST reference, Token API, create). A create is repeated only when
// nothing of it was sent or when it was answered with 429 or 503. When it fails with [Error.Unprocessed] false, the token
// may exist all the same.
func (c *Client) CreateToken(ctx context.Context, req CreateTokenRequest) (*CreatedToken, error) {
	if err := checkLifetime(opTokenCreate, req.Lifetime); err != nil {
		return nil, err
	}
	var created *CreatedToken
	ca, err := c.do(ctx, call{op: opTokenCreate, creates: true, result: true, signed: true}, func(ctx context.Context) error {
		var resp createdToken
		if err := c.post(ctx, "/api/2.0/token/create", createToken{req.Comment, int64(req.Lifetime / time.Second), req.Scopes}, &resp); err != nil {
			return err
		}
		info := resp.TokenInfo
		if resp.TokenValue == "" || info == nil || info.TokenID == "" {
			return errIncomplete
		}
		created = &CreatedToken{Value: Secret(resp.TokenValue), Info: TokenInfo{
			TokenID: info.TokenID, Comment: info.Comment, CreationTime: moment(int64(info.CreationTime)), ExpiryTime: moment(int64(info.ExpiryTime)), Scopes: info.Scopes,
		}}
		return nil
	})
	if err != nil {
		return nil, err
	}
	created.Retried = ca.retried
	return created, nil
}

// CreateOBOTokenRequest says which token to make on behalf of which service principal.
type CreateOBOTokenRequest struct {
	ApplicationID string // of the service principal, which must be allowed to use tokens
	Comment       string
	Lifetime      time.Duration // positive, in whole seconds. Databricks refuses more than the workspace's maximum
	Scopes        []string      // API scopes, empty for what Databricks defaults to
}

// CreateOBOToken makes a personal access token that acts for a service principal, for admins of workspaces on AWS and GCP
// only (Databricks REST reference, Token management API, create on-behalf token). It is repeated as [Client.CreateToken] is.
func (c *Client) CreateOBOToken(ctx context.Context, req CreateOBOTokenRequest) (*CreatedToken, error) {
	if err := checkLifetime(opOBOCreate, req.Lifetime); err != nil {
		return nil, err
	}
	var created *CreatedToken
	ca, err := c.do(ctx, call{op: opOBOCreate, creates: true, result: true, signed: true}, func(ctx context.Context) error {
		resp, err := c.managed.CreateOboToken(ctx, settings.CreateOboTokenRequest{
			ApplicationId:   req.ApplicationID,
			Comment:         req.Comment,
			LifetimeSeconds: int64(req.Lifetime / time.Second),
			Scopes:          req.Scopes,
		})
		if err != nil {
			return err
		}
		if resp.TokenValue == "" || resp.TokenInfo == nil || resp.TokenInfo.TokenId == "" {
			return errIncomplete
		}
		created = &CreatedToken{Value: Secret(resp.TokenValue), Info: managedInfo(resp.TokenInfo)}
		return nil
	})
	if err != nil {
		return nil, err
	}
	created.Retried = ca.retried
	return created, nil
}

// checkLifetime refuses what Databricks would take for another lifetime, or for one without an end.
func checkLifetime(op string, lifetime time.Duration) error {
	if lifetime <= 0 || lifetime%time.Second != 0 {
		return notSent(op, "the lifetime must be a positive number of whole seconds, not %s", lifetime)
	}
	return nil
}

// ListTokens returns the valid tokens of the connection's identity (Databricks REST reference, Token API, list, which has
// no pages).
func (c *Client) ListTokens(ctx context.Context) ([]TokenInfo, error) {
	var infos []TokenInfo
	_, err := c.do(ctx, call{op: opTokenList, result: true, signed: true}, func(ctx context.Context) error {
		tokens, err := c.tokens.ListAll(ctx)
		if err != nil {
			return err
		}
		infos = make([]TokenInfo, 0, len(tokens))
		for i := range tokens {
			infos = append(infos, publicInfo(&tokens[i]))
		}
		return nil
	})
	if err == nil {
		c.tokensSeen.Store(&TokensSeen{Count: len(infos), Time: time.Now()})
	}
	return infos, err
}

// TokensSeen is how many live tokens the connection's identity had, and when.
type TokensSeen struct {
	Count int
	Time  time.Time
}

// TokensSeen returns what the latest [Client.ListTokens] found, nil for none yet. It makes no call.
func (c *Client) TokensSeen() *TokensSeen { return c.tokensSeen.Load() }

// DeleteToken ends a token of the connection's identity (Databricks REST reference, Token API, revoke). A token that does
// not exist is an error of kind [NotFound].
func (c *Client) DeleteToken(ctx context.Context, tokenID string) error {
	if err := checkTokenID(opTokenDelete, tokenID); err != nil {
		return err
	}
	_, err := c.do(ctx, call{op: opTokenDelete, deletes: true, signed: true}, func(ctx context.Context) error {
		return c.post(ctx, "/api/2.0/token/delete", deleteToken{tokenID}, nil)
	})
	return err
}

// ListManagedTokens returns the tokens of all users and service principals of the workspace, for admins only (Databricks
// REST reference, Token management API, list, which has no pages).
func (c *Client) ListManagedTokens(ctx context.Context) ([]TokenInfo, error) {
	var infos []TokenInfo
	_, err := c.do(ctx, call{op: opManagedList, result: true, signed: true}, func(ctx context.Context) error {
		tokens, err := c.managed.ListAll(ctx, settings.ListTokenManagementRequest{})
		if err != nil {
			return err
		}
		infos = make([]TokenInfo, 0, len(tokens))
		for i := range tokens {
			infos = append(infos, managedInfo(&tokens[i]))
		}
		return nil
	})
	return infos, err
}

// GetManagedToken returns one token of the workspace, for admins only (Databricks REST reference, Token management API,
// get). A token that does not exist is an error of kind [NotFound].
func (c *Client) GetManagedToken(ctx context.Context, tokenID string) (*TokenInfo, error) {
	if err := checkTokenID(opManagedGet, tokenID); err != nil {
		return nil, err
	}
	var info TokenInfo
	_, err := c.do(ctx, call{op: opManagedGet, result: true, signed: true}, func(ctx context.Context) error {
		resp, err := c.managed.Get(ctx, settings.GetTokenManagementRequest{TokenId: tokenID})
		if err != nil {
			return err
		}
		if resp.TokenInfo == nil || resp.TokenInfo.TokenId == "" {
			return errIncomplete
		}
		info = managedInfo(resp.TokenInfo)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &info, nil
}

// DeleteManagedToken ends any token of the workspace, for admins only (Databricks REST reference, Token management API,
// delete). A token that does not exist is an error of kind [NotFound].
func (c *Client) DeleteManagedToken(ctx context.Context, tokenID string) error {
	if err := checkTokenID(opManagedDelete, tokenID); err != nil {
		return err
	}
	_, err := c.do(ctx, call{op: opManagedDelete, deletes: true, signed: true}, func(ctx context.Context) error {
		return c.managed.Delete(ctx, settings.DeleteTokenManagementRequest{TokenId: tokenID})
	})
	return err
}

// tokenIDText allows more than the 64 hexadecimal digits that token ids have, but nothing with a meaning in a path, where
// the SDK puts them as they are.
var tokenIDText = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// IsTokenID reports whether the text can be the id of a token.
func IsTokenID(text string) bool { return tokenIDText.MatchString(text) }

func checkTokenID(op, tokenID string) error { return checkID(op, "token", tokenID) }

func publicInfo(t *settings.PublicTokenInfo) TokenInfo {
	return TokenInfo{
		TokenID:      t.TokenId,
		Comment:      t.Comment,
		CreationTime: moment(t.CreationTime),
		ExpiryTime:   moment(t.ExpiryTime),
		Scopes:       t.Scopes,
	}
}

func managedInfo(t *settings.TokenInfo) TokenInfo {
	return TokenInfo{
		TokenID:           t.TokenId,
		Comment:           t.Comment,
		CreationTime:      moment(t.CreationTime),
		ExpiryTime:        moment(t.ExpiryTime),
		Scopes:            t.Scopes,
		OwnerID:           t.OwnerId,
		CreatedByID:       t.CreatedById,
		CreatedByUsername: t.CreatedByUsername,
		LastUsedDay:       moment(t.LastUsedDay),
	}
}

// moment returns the time of milliseconds since 1970. Databricks writes -1, or nothing, for never.
func moment(milliseconds int64) time.Time {
	if milliseconds <= 0 {
		return time.Time{}
	}
	return time.UnixMilli(milliseconds).UTC()
}
