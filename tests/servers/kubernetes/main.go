// kube-local is a one-process Kubernetes control plane for tests: etcd and
// kube-apiserver, both compiled from their published Go modules, listening on
// loopback only.
//
//	kube-local -port 0 -data-dir DIR [-keep] [-controlled] [-- extra kube-apiserver flags]
//
// There is no kubelet, scheduler or controller in it: nodes and pods are records
// that a test writes itself, and everything in front of them (watch, selectors,
// RBAC, tokens, validation) is the real thing. Nothing survives in DIR from one
// start to the next, unless -keep says that this is the same server again, which
// has to have the same port then.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"golang.org/x/sys/unix"
	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	port := flag.Int("port", 0, "loopback port of the API server, 0 for any free one")
	dataDir := flag.String("data-dir", "", "folder for etcd's data, keys and the kubeconfig (created if absent)")
	keep := flag.Bool("keep", false, "go on with the objects, keys and tokens that an earlier start left in the folder")
	controlled := flag.Bool("controlled", false, "controllers run beside this server and make the ServiceAccounts that pods need")
	patience := flag.Duration("ready-timeout", 2*time.Minute, "exit if the server is not ready by then")
	flag.Parse()
	code, err := run(*port, *dataDir, *keep, *controlled, *patience, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "kube-local:", err)
	}
	os.Exit(code)
}

func run(port int, dataDir string, keep, controlled bool, patience time.Duration, extra []string) (int, error) {
	if dataDir == "" {
		return 2, errors.New("-data-dir is required")
	}
	dir, err := filepath.Abs(dataDir)
	if err != nil {
		return 2, err
	}
	if !keep {
		if err := os.RemoveAll(filepath.Join(dir, "etcd")); err != nil {
			return 1, err
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 2, err
	}
	if port, err = reservePort(port); err != nil {
		return 1, fmt.Errorf("port %d: %w", port, err)
	}
	id, err := makeIdentity(dir, port, keep)
	if err != nil {
		return 1, fmt.Errorf("credentials: %w", err)
	}
	store, endpoint, err := startEtcd(dir)
	if err != nil {
		return 1, fmt.Errorf("etcd: %w", err)
	}
	defer store.Close()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go announce(ctx, id, port, patience)

	// A flag given twice takes its last value (lists grow instead), so extra
	// may override what is ours.
	command := app.NewAPIServerCommand()
	command.SetArgs(append(flags(id, endpoint, port, controlled), extra...))
	return cli.Run(command), nil
}

func flags(id *identity, etcd string, port int, controlled bool) []string {
	flags := []string{
		"--etcd-servers=" + etcd,
		"--bind-address=127.0.0.1",
		"--secure-port=" + strconv.Itoa(port),
		"--permit-port-sharing=true", // with reservePort
		// An endpoint of the "kubernetes" Service may not be a loopback
		// address, so publishing one is switched off.
		"--advertise-address=127.0.0.1",
		"--endpoint-reconciler-type=none",
		"--service-cluster-ip-range=10.96.0.0/16",
		"--cert-dir=" + filepath.Join(id.dir, "pki"),
		"--tls-cert-file=" + id.path("apiserver.crt"),
		"--tls-private-key-file=" + id.path("apiserver.key"),
		"--client-ca-file=" + id.path("ca.crt"),
		"--token-auth-file=" + id.tokenFile(),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-signing-key-file=" + id.path("sa.key"),
		"--service-account-key-file=" + id.path("sa.pub"),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		// Otherwise one open watch delays SIGTERM by the full minute that
		// requests may take.
		"--shutdown-watch-termination-grace-period=1s",
	}
	if !controlled {
		// Nothing creates the "default" ServiceAccount of a new namespace, and
		// this plugin refuses pods until it exists.
		flags = append(flags, "--disable-admission-plugins=ServiceAccount")
	}
	return flags
}

// reservePort binds a loopback port, any free one for 0, and keeps it bound
// for the life of the process without listening on it. Nobody else can take it
// before the API server, which is told to share, listens there.
func reservePort(port int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return port, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return port, err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return port, err
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return port, err
	}
	address, ok := bound.(*unix.SockaddrInet4)
	if !ok {
		return port, errors.New("the socket has no IPv4 address")
	}
	return address.Port, nil
}

// startEtcd runs a single-member etcd on a unix socket, so that the only TCP
// port this program opens is the API server's. It has no peers to listen for;
// the peer and client addresses it advertises stay etcd's unused defaults.
func startEtcd(dir string) (*embed.Etcd, string, error) {
	client := url.URL{Scheme: "unix", Path: filepath.Join(dir, "etcd.sock")}
	if len(client.Path) > 100 {
		return nil, "", fmt.Errorf("%s is too long for a unix socket, choose a shorter data folder", client.Path)
	}
	cfg := embed.NewConfig()
	cfg.Dir = filepath.Join(dir, "etcd")
	cfg.ListenClientUrls = []url.URL{client}
	cfg.ListenPeerUrls = nil
	cfg.LogLevel = "error"
	cfg.UnsafeNoFsync = true // test data: speed before durability
	store, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, "", err
	}
	select {
	case <-store.Server.ReadyNotify():
		return store, client.String(), nil
	case err := <-store.Err():
		store.Close()
		return nil, "", err
	case <-time.After(30 * time.Second):
		store.Close()
		return nil, "", errors.New("not ready after 30s")
	}
}

// announce prints one line on stdout once the server serves: /readyz says yes
// and the "default" namespace, which is written a little later, is there too.
func announce(ctx context.Context, id *identity, port int, patience time.Duration) {
	roots := x509.NewCertPool()
	roots.AddCert(id.ca)
	client := &http.Client{
		Timeout:   2 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true},
	}
	base := fmt.Sprintf("https://127.0.0.1:%d", port)
	answers := func(path string) bool {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, nil)
		if err != nil {
			return false
		}
		req.Header.Set("Authorization", "Bearer "+id.token)
		resp, err := client.Do(req)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if answers("/readyz") && answers("/api/v1/namespaces/default") {
			fmt.Printf("READY %s\n", base)
			return
		}
		if time.Now().After(deadline) {
			fmt.Fprintf(os.Stderr, "kube-local: not ready after %s\n", patience)
			os.Exit(1)
		}
	}
}
