// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"fmt"
	"net/http"
	"slices"
	"time"
)

// Databases are those of Lakebase: endpoints of autoscaling projects, and
// instances of the older kind. They have a name and a host here, and no content:
// [Workspace.DatabaseLogin] says who may log in.

const (
	shortestLogin = 5 * time.Minute
	longestLogin  = time.Hour
)

// DatabaseSession is what a login to a database is good for.
type DatabaseSession struct {
	Databases []string // the endpoint, or the instances
	Tables    []string // of its claims, read-only
	Expires   time.Time
}

// databaseLogin is the password of a login. It is guarded by the workspace's
// mutex.
type databaseLogin struct {
	DatabaseSession
	owner *principal
}

// databaseClaim is RequestedClaims of the SDK.
type databaseClaim struct {
	PermissionSet string `json:"permission_set"`
	Resources     []struct {
		TableName string `json:"table_name"`
	} `json:"resources"`
}

// AddDatabaseEndpoint adds an endpoint, "projects/P/branches/B/endpoints/E", that
// is reached at host.
func (w *Workspace) AddDatabaseEndpoint(name, host string) { w.addDatabase(name, host) }

// AddDatabaseInstance adds an instance that is reached at host.
func (w *Workspace) AddDatabaseInstance(name, host string) { w.addDatabase("instances/"+name, host) }

func (w *Workspace) addDatabase(key, host string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.databases[key] = host
}

// RemoveDatabase removes an endpoint by its name, or an instance by
// "instances/" and its name.
func (w *Workspace) RemoveDatabase(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.databases, name)
}

// DatabaseLogin judges a login to a database as Lakebase does when a connection
// begins: the password must be one that was made for the identity whose user name
// or application id is the user name, and must not have expired.
func (w *Workspace) DatabaseLogin(username, password string) (DatabaseSession, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	login := w.logins[hashOf(password)]
	if login == nil || login.owner.UserName != username || !login.owner.active || !login.owner.inWorkspace || !w.settings.now().Before(login.Expires) {
		return DatabaseSession{}, false
	}
	return login.DatabaseSession, true
}

// createEndpointLogin makes the password of a login to an endpoint (Databricks
// SDK for Go, service/postgres). How it refuses is not documented.
func (w *Workspace) createEndpointLogin(r *request) (any, *refusal) {
	var body struct {
		Endpoint   string          `json:"endpoint"`
		TTL        string          `json:"ttl"`
		ExpireTime time.Time       `json:"expire_time"`
		Claims     []databaseClaim `json:"claims"`
	}
	if refused := r.decode(&body); refused != nil {
		return nil, refused
	}
	if body.Endpoint == "" {
		return nil, missingField("endpoint")
	}
	life := longestLogin
	switch {
	case body.TTL != "":
		var err error
		if life, err = time.ParseDuration(body.TTL); err != nil {
			return nil, refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE", "ttl is not a duration.")
		}
	case !body.ExpireTime.IsZero():
		life = body.ExpireTime.Sub(w.settings.now())
	}
	if life < shortestLogin || life > longestLogin {
		return nil, refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE", "ttl must be between 300 and 3600 seconds.")
	}
	login, value, refused := w.newLogin(r, life, body.Claims, body.Endpoint)
	if refused != nil {
		return nil, refused
	}
	return map[string]any{"token": value, "expire_time": login.Expires.UTC().Format(time.RFC3339Nano)}, nil
}

// createInstanceLogin makes the password of a login to instances, which lives for
// an hour (Databricks SDK for Go, service/database).
func (w *Workspace) createInstanceLogin(r *request) (any, *refusal) {
	var body struct {
		InstanceNames []string        `json:"instance_names"`
		Claims        []databaseClaim `json:"claims"`
	}
	if refused := r.decode(&body); refused != nil {
		return nil, refused
	}
	if len(body.InstanceNames)+len(body.Claims) == 0 {
		return nil, missingField("instance_names")
	}
	var keys []string
	for _, name := range body.InstanceNames {
		keys = append(keys, "instances/"+name)
	}
	login, value, refused := w.newLogin(r, longestLogin, body.Claims, keys...)
	if refused != nil {
		return nil, refused
	}
	return map[string]any{"token": value, "expiration_time": login.Expires.UTC().Format(time.RFC3339Nano)}, nil
}

func (w *Workspace) newLogin(r *request, life time.Duration, claims []databaseClaim, keys ...string) (*databaseLogin, string, *refusal) {
	var tables []string
	for _, claim := range claims {
		if claim.PermissionSet != "READ_ONLY" || len(claim.Resources) == 0 {
			return nil, "", refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE", "A claim needs the permission set READ_ONLY, and resources.")
		}
		for _, resource := range claim.Resources {
			tables = append(tables, resource.TableName)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, key := range keys {
		if _, exists := w.databases[key]; !exists {
			return nil, "", noDatabase(key)
		}
	}
	now := w.settings.now()
	login := &databaseLogin{DatabaseSession{slices.Clone(keys), tables, now.Add(life)}, r.caller}
	value := unverifiableJWT(map[string]any{
		"iss": w.url + "/oidc", "sub": r.caller.UserName, "iat": now.Unix(), "exp": login.Expires.Unix(), "jti": newUUID(), "scope": "database",
	})
	w.logins[hashOf(value)] = login
	return login, value, nil
}

func noDatabase(name string) *refusal {
	return refuse(http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST", fmt.Sprintf("%s does not exist.", name))
}

func (w *Workspace) getDatabaseEndpoint(r *request) (any, *refusal) {
	name := fmt.Sprintf("projects/%s/branches/%s/endpoints/%s", r.PathValue("project"), r.PathValue("branch"), r.PathValue("endpoint"))
	w.mu.Lock()
	defer w.mu.Unlock()
	host, exists := w.databases[name]
	if !exists {
		return nil, noDatabase(name)
	}
	return map[string]any{"name": name, "status": map[string]any{"current_state": "ACTIVE", "hosts": map[string]any{"host": host}}}, nil
}

func (w *Workspace) getDatabaseInstance(r *request) (any, *refusal) {
	name := r.PathValue("name")
	w.mu.Lock()
	defer w.mu.Unlock()
	host, exists := w.databases["instances/"+name]
	if !exists {
		return nil, noDatabase(name)
	}
	return map[string]any{"name": name, "state": "AVAILABLE", "read_write_dns": host}, nil
}
