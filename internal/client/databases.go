// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// The operations on databases of Lakebase, as errors and counters name them.
const (
	opEndpointLogin = "postgres/credentials"
	opEndpointGet   = "postgres/endpoints/get"
	opInstanceLogin = "database/credentials"
	opInstanceGet   = "database/instances/get"
)

// Database is what a login is for: an endpoint of an autoscaling project, or instances of the older kind.
type Database struct {
	Endpoint  string   // "projects/P/branches/B/endpoints/E"
	Instances []string // names; Endpoint must be empty then
	Tables    []string // full names of tables that the login may read besides, by claims
}

// NewDatabaseLogin says which login to make.
type NewDatabaseLogin struct {
	Database
	Lifetime  time.Duration // 5 minutes to an hour, in whole seconds, for an endpoint; ignored for instances, where it is an hour
	RequestID string        // sent for instances, where Databricks takes one
	Bearer    Secret        // the access token of whose login it is; empty for the connection's identity
}

// DatabaseLogin is the password of a new login. Nothing ends it before its expiry, and nothing ends connections that were made with it.
type DatabaseLogin struct {
	Password Secret
	Expires  time.Time // UTC
	Lifetime time.Duration
}

// CreateDatabaseLogin makes a password with which an identity logs in to a database (Databricks SDK for Go, service/postgres and service/database,
// generate database credential). It is repeated as a read is, since a login that nobody has seen harms nobody.
func (c *Client) CreateDatabaseLogin(ctx context.Context, wanted NewDatabaseLogin) (*DatabaseLogin, error) {
	op, path, body := opInstanceLogin, "/api/2.0/database/credentials", newLogin{InstanceNames: wanted.Instances, RequestID: wanted.RequestID}
	if wanted.Endpoint != "" {
		if err := checkLifetime(opEndpointLogin, wanted.Lifetime); err != nil {
			return nil, err
		}
		op, path, body = opEndpointLogin, "/api/2.0/postgres/credentials", newLogin{Endpoint: wanted.Endpoint, TTL: strconv.FormatInt(int64(wanted.Lifetime/time.Second), 10) + "s"}
	}
	if len(wanted.Tables) > 0 {
		claim := loginClaim{PermissionSet: "READ_ONLY"}
		for _, table := range wanted.Tables {
			claim.Resources = append(claim.Resources, loginTable{table})
		}
		body.Claims = []loginClaim{claim}
	}
	var resp loginAnswer
	asked := time.Now()
	ca, err := c.do(ctx, call{op: op, result: true, signed: wanted.Bearer == "", bearer: wanted.Bearer}, func(ctx context.Context) error {
		if err := c.post(ctx, path, body, &resp); err != nil {
			return err
		}
		if resp.ExpireTime.IsZero() {
			resp.ExpireTime = resp.ExpirationTime
		}
		if resp.Token == "" || !ValidCredential(resp.Token) || resp.ExpireTime.IsZero() {
			return errIncomplete
		}
		return nil
	})
	if wanted.Bearer != "" {
		err = ofPrincipal(err, "Databricks refused the access token of the service principal", hintPrincipal)
	}
	if err != nil {
		return nil, withoutLakebase(err)
	}
	// By Databricks' clock, where the answer tells its time.
	if at, err := http.ParseTime(ca.header.Get("Date")); err == nil {
		asked = at
	}
	login := &DatabaseLogin{Password: Secret(resp.Token), Expires: resp.ExpireTime.UTC(), Lifetime: resp.ExpireTime.Sub(asked)}
	if login.Lifetime < time.Second {
		return nil, unreadable(op, ca.status, "the password has expired already", "")
	}
	return login, nil
}

// EndpointHost returns the host name of an endpoint, "" where the answer has none (Databricks SDK for Go, service/postgres, get endpoint). One that does
// not exist is an error of kind [NotFound].
func (c *Client) EndpointHost(ctx context.Context, endpoint string) (string, error) {
	var resp struct {
		Status struct {
			Hosts struct {
				Host string `json:"host"`
			} `json:"hosts"`
		} `json:"status"`
	}
	_, err := c.do(ctx, call{op: opEndpointGet, result: true, signed: true}, func(ctx context.Context) error {
		return c.send(ctx, http.MethodGet, "/api/2.0/postgres/"+endpoint, nil, &resp)
	})
	return resp.Status.Hosts.Host, withoutLakebase(err)
}

// InstanceHost returns the host name of an instance, "" where the answer has none (Databricks SDK for Go, service/database, get database instance).
// One that does not exist is an error of kind [NotFound].
func (c *Client) InstanceHost(ctx context.Context, name string) (string, error) {
	var resp struct {
		Host string `json:"read_write_dns"`
	}
	_, err := c.do(ctx, call{op: opInstanceGet, result: true, signed: true}, func(ctx context.Context) error {
		return c.send(ctx, http.MethodGet, "/api/2.0/database/instances/"+url.PathEscape(name), nil, &resp)
	})
	return resp.Host, withoutLakebase(err)
}

// withoutLakebase makes the answer that there is no such path in the API say that the workspace lacks the API of databases.
func withoutLakebase(err error) error {
	var failure *Error
	if !errors.As(err, &failure) || failure.ErrorCode != "ENDPOINT_NOT_FOUND" {
		return err
	}
	lacks := *failure
	lacks.what, lacks.hint = "this workspace has no Lakebase API", "check that it is the workspace of the database, and that Lakebase is available and enabled there"
	return &lacks
}

// newLogin and loginAnswer are the requests and the answers of both APIs.
type newLogin struct {
	Endpoint      string       `json:"endpoint,omitempty"`
	TTL           string       `json:"ttl,omitempty"`
	InstanceNames []string     `json:"instance_names,omitempty"`
	RequestID     string       `json:"request_id,omitempty"`
	Claims        []loginClaim `json:"claims,omitempty"`
}

type loginClaim struct {
	PermissionSet string       `json:"permission_set"`
	Resources     []loginTable `json:"resources"`
}

type loginTable struct {
	TableName string `json:"table_name"`
}

type loginAnswer struct {
	Token          string    `json:"token"`
	ExpireTime     time.Time `json:"expire_time"`
	ExpirationTime time.Time `json:"expiration_time"`
}
