# Writes a tree down so that two of them can be compared as texts: a line an entry, in the order of
# their names, with all that a layer has to keep of it.
use strict;
use warnings;

my $root = shift or die "usage: listing.pl FOLDER\n";
chdir $root or die "$root: $!\n";

# Numbers of system calls (asm/unistd.h): lgetxattr and llistxattr.
my ($get, $list) = `uname -m` =~ /^x86_64/ ? (192, 195) : (9, 12);
my %names_of;
my @lines;

sub attributes {
    my ($path) = @_;
    my $buffer = "\0" x 65536;
    my $length = syscall($list, $path, $buffer, length $buffer);
    return "" if $length <= 0;
    my @said;
    for my $name (sort split /\0/, substr $buffer, 0, $length) {
        # What everybody may see, and what a program may do; not what a file system notes for itself.
        next unless $name =~ /^user\./ || $name eq "security.capability";
        my $value = "\0" x 65536;
        my $size = syscall($get, $path, $name, $value, length $value);
        push @said, "$name=" . unpack("H*", substr $value, 0, $size < 0 ? 0 : $size);
    }
    return join ",", @said;
}

sub content {
    my ($path, $size) = @_;
    return "large" if $size > 1 << 20;
    open my $sum, "-|", "sha256sum", "--", $path or die "$path: $!\n";
    my ($digest) = split / /, scalar <$sum>;
    return $digest =~ s/^\\//r;
}

sub entry {
    my ($path) = @_;
    my ($device, $inode, $mode, $links, $uid, $gid, $special, $size, undef, $time) = lstat $path
        or die "$path: $!\n";
    my $kind = -l _ ? "link" : -d _ ? "folder" : -f _ ? "file" : "other";
    # The time comes in whole seconds: not everybody keeps more. The root's is that of who made it.
    my @facts = ($kind, sprintf("%04o", $mode & 07777), "$uid:$gid", $path eq "." ? "-" : $time);
    push @facts, "-> " . readlink $path if $kind eq "link";
    push @facts, "$size bytes", content($path, $size) if $kind eq "file";
    push @facts, sprintf "%o %d", $mode, $special if $kind eq "other";
    push @{$names_of{"$device:$inode"}}, $path if $kind eq "file" && $links > 1;
    push @facts, attributes($path);
    push @lines, "$path: " . join " ", @facts;
    return unless $kind eq "folder";
    opendir my $folder, $path or die "$path: $!\n";
    entry("$path/$_") for sort grep { !/^\.\.?$/ } readdir $folder;
}

entry(".");
push @lines, "one file: " . join " ", sort @$_ for sort { $a->[0] cmp $b->[0] }
    # Overlay shows the count of a layer below, also when the other names are gone.
    grep { @$_ > 1 } values %names_of;
s/[^\t -~]/?/g, print "$_\n" for @lines;
