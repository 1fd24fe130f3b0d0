// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"net/http"
	"strconv"
	"time"
)

// The operations on OAuth secrets of service principals, as errors and counters name them.
const (
	opOAuthSecretCreate = "oauth-secrets/create"
	opOAuthSecretList   = "oauth-secrets/list"
	opOAuthSecretDelete = "oauth-secrets/delete"
)

// OAuthSecret is a client secret of a service principal.
type OAuthSecret struct {
	ID         string
	Value      Secret    // only of one that was just made, since Databricks shows it this one time
	CreateTime time.Time // UTC
	ExpireTime time.Time // UTC; zero for a secret that never expires
	Status     string    // such as "ACTIVE"
	// Scopes are the API scopes that bound the tokens made with it, as Databricks answers them. Empty means all of them, or that the workspace
	// doesn't know the scopes of secrets.
	Scopes []string
	// Retried is [CreatedToken.Retried] for a secret that was just made.
	Retried bool
}

// CreateOAuthSecret makes a secret for a service principal, by its numeric id, with a lifetime in whole seconds of up to two
// years, and with API scopes that bound the tokens made with it, or none for all (Databricks REST reference, Service
// principal secrets API, create). A service principal can have five. It is repeated as [Client.CreateToken] is.
func (c *Client) CreateOAuthSecret(ctx context.Context, servicePrincipalID string, lifetime time.Duration, scopes []string) (*OAuthSecret, error) {
	if err := checkID(opOAuthSecretCreate, "service principal", servicePrincipalID); err != nil {
		return nil, err
	}
	if err := checkLifetime(opOAuthSecretCreate, lifetime); err != nil {
		return nil, err
	}
	body := createSecret{strconv.FormatInt(int64(lifetime/time.Second), 10) + "s", scopes}
	var created *OAuthSecret
	ca, err := c.do(ctx, call{op: opOAuthSecretCreate, creates: true, result: true, signed: true}, func(ctx context.Context) error {
		var resp secretAnswer
		if err := c.post(ctx, c.secretsPath(servicePrincipalID), body, &resp); err != nil {
			return err
		}
		if resp.Secret == "" {
			return errIncomplete
		}
		var err error
		created, err = resp.secret()
		if err != nil {
			return err
		}
		created.Value = Secret(resp.Secret)
		return nil
	})
	if err != nil {
		return nil, err
	}
	created.Retried = ca.retried
	return created, nil
}

// ListOAuthSecrets returns the secrets of a service principal, by its numeric id, without their values (Databricks REST
// reference, Service principal secrets API, list, which comes in pages, each of them a call of its own). A service principal
// that does not exist is an error of kind [NotFound].
func (c *Client) ListOAuthSecrets(ctx context.Context, servicePrincipalID string) ([]OAuthSecret, error) {
	if err := checkID(opOAuthSecretList, "service principal", servicePrincipalID); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, CallBudget)
	defer cancel()
	secrets := []OAuthSecret{}
	next := ""
	for range maxPages {
		var page struct {
			Secrets       []secretAnswer `json:"secrets"`
			NextPageToken string         `json:"next_page_token"`
		}
		_, err := c.do(ctx, call{op: opOAuthSecretList, result: true, signed: true}, func(ctx context.Context) error {
			var query any
			if next != "" {
				query = map[string]string{"page_token": next}
			}
			if err := c.send(ctx, http.MethodGet, c.secretsPath(servicePrincipalID), query, &page); err != nil {
				return err
			}
			for _, answer := range page.Secrets {
				secret, err := answer.secret()
				if err != nil {
					return err
				}
				secrets = append(secrets, *secret)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if page.NextPageToken == "" {
			return secrets, nil
		}
		next = page.NextPageToken
	}
	return nil, endless(opOAuthSecretList)
}

// DeleteOAuthSecret removes a secret of a service principal, by their ids, so that it gives no more access tokens; those
// that it gave may work until they expire (Databricks REST reference, Service principal secrets API, delete). One that does
// not exist, or whose service principal does not, is an error of kind [NotFound].
func (c *Client) DeleteOAuthSecret(ctx context.Context, servicePrincipalID, secretID string) error {
	if err := checkID(opOAuthSecretDelete, "service principal", servicePrincipalID); err != nil {
		return err
	}
	if err := checkID(opOAuthSecretDelete, "secret", secretID); err != nil {
		return err
	}
	_, err := c.do(ctx, call{op: opOAuthSecretDelete, deletes: true, signed: true}, func(ctx context.Context) error {
		return c.send(ctx, http.MethodDelete, c.secretsPath(servicePrincipalID)+"/"+secretID, nil, nil)
	})
	return err
}

func (c *Client) secretsPath(servicePrincipalID string) string {
	return c.spBase + servicePrincipalID + "/credentials/secrets"
}

// createSecret and secretAnswer are the request and the answer of the Service principal secrets API's create, with the scopes that the SDK's
// types lack (Databricks SDK for Python, service/oauth2.py). A list has such answers without the value.
type createSecret struct {
	Lifetime string   `json:"lifetime"`
	Scopes   []string `json:"scopes,omitempty"`
}

type secretAnswer struct {
	ID         string   `json:"id"`
	Secret     string   `json:"secret"`
	Status     string   `json:"status"`
	CreateTime string   `json:"create_time"`
	ExpireTime string   `json:"expire_time"`
	Scopes     []string `json:"scopes"`
}

// secret converts an answer. It fails when the answer lacks the id, or has malformed times.
func (a *secretAnswer) secret() (*OAuthSecret, error) {
	if a.ID == "" {
		return nil, errIncomplete
	}
	secret := &OAuthSecret{ID: a.ID, Status: a.Status, Scopes: a.Scopes}
	for _, field := range []struct {
		text string
		time *time.Time
	}{{a.CreateTime, &secret.CreateTime}, {a.ExpireTime, &secret.ExpireTime}} {
		if field.text == "" {
			continue
		}
		at, err := time.Parse(time.RFC3339, field.text)
		if err != nil {
			return nil, err
		}
		*field.time = at.UTC()
	}
	return secret, nil
}
